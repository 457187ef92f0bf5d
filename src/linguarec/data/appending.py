"""A piece of a log added to a prepared folder, without the raw logs that the folder was made of.

The folder's own interactions, the rows that earlier pieces left waiting, and the piece go through the steps of a
preparation. What holds afterwards:

- An item of the folder keeps its row, a user of the folder their row, and every interaction of the folder stays. New
  ones follow.
- Order: by time, where times are known, also among those of the folder. At one time the folder's rows come first, in
  their order, then the piece's (by file or shuffled, as the folder was made). Without times the piece follows what is there.
- k-core: that of all these rows. It holds the folder's, since a k-core stays within the k-core of more rows. Rows
  outside wait in
  `waiting/` and count at the next piece. What the first preparation left out is gone: it had not been kept.
- A row that the folder has already (user, item, time in whole seconds) is dropped where repeated rows are.

Raises SettingsError or DataFormatError where this cannot hold.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from linguarec.data import filtering
from linguarec.data.dataset import PreparedDataset
from linguarec.data.engine import Engine, open_engine
from linguarec.data.folder import Appended, Content
from linguarec.data.item_ids import as_known, example_id, why_no_item_matches
from linguarec.data.preparation import (
    MICROSECONDS,
    FilterSettings,
    MakeText,
    Reader,
    Source,
    catalogue_pieces,
    dense_rows,
    interactions_in_order,
    offsets_of,
)
from linguarec.data.readers.files import parquet_table
from linguarec.data.source_files import SourceFiles
from linguarec.data.splitting import user_blocks
from linguarec.errors import DataFormatError, SettingsError, listed

WAITING = "waiting"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Rows:
    """Coded rows with the tables of their codes. `earlier`: those of the folder and those that wait, `number` of them, of which
    `settled` are the folder's; `fresh`: the piece's."""

    users: ir.Table
    items: ir.Table
    earlier: ir.Table
    fresh: ir.Table
    settled: int
    number: int


@contextlib.contextmanager
def append_content(
    scratch: Path, folder: Path, piece: str, read: Reader, settings: FilterSettings, make_text: MakeText
) -> Iterator[Content]:
    """The content of the folder with the piece that `read` finds; it streams out of the database while the block is open.

    Raises:
        DataFormatError: the piece is malformed, or holds nothing that the folder does not have.
        SettingsError: it was appended before, or its attributes are others.
    """
    dataset = PreparedDataset.open(folder)
    with open_engine(scratch, settings.engine) as engine:
        source = _read_alike(engine, dataset, read(engine, scratch), piece)
        fingerprint = _fingerprint(engine, source)
        _check_fits(dataset, source, piece, fingerprint)
        report = {**source.counted, **source.dropped}
        catalogue = _catalogue(engine, dataset, source, scratch)
        source = replace(source, catalogue=catalogue, attributes=dataset.manifest.attributes)
        rows = _code(engine, dataset, source, settings, report, scratch)
        rows = _without_repeated(engine, rows, settings, source.has_times, report)
        _check_new(engine, rows, settings, catalogue, report)
        log, waiting = _core(engine, rows, settings, report)
        users_later = _absent(rows.users, dataset.num_users, log, waiting, "user")
        items_later = _absent(rows.items, dataset.num_items, log, waiting, "item")
        if settings.catalogue == "all":  # such items enter without the log
            items_later = items_later.anti_join(catalogue, "raw_id")
        report["users_waiting"] = engine.value(users_later.count())
        report["items_waiting"] = engine.value(items_later.count())
        if source.has_times:
            late = rows.fresh.filter(rows.fresh.time < (dataset.last_time or 0) * MICROSECONDS)
            report["rows_before_the_folders_last"] = engine.value(late.count())

        known = dataset.num_items
        counts = engine.store(log.group_by("user").agg(rows=log.count()))
        in_log = engine.store(rows.items.semi_join(log.select(code="item"), "code"))
        new_items = engine.store(in_log.filter(in_log.code >= known))
        kept = engine.store(rows.items.filter(rows.items.code < known).union(new_items))
        item_row = dense_rows(engine, kept, engine.value(rows.items.code.max()))
        users = rows.users.semi_join(counts.select(code="user"), "code").order_by("code").select("raw_id")
        described = replace(source, catalogue=catalogue.anti_join(items_later, "raw_id"))
        new_pieces = catalogue_pieces(engine, described, new_items, settings.catalogue, make_text, report)
        texts = {*source.texts, *(name for name in source.attributes if name not in dataset.manifest.numbers)}
        yield Content(
            items=_all_items(dataset, new_pieces),
            attributes=source.attributes,
            users=(batch.column(0) for batch in engine.stream(users)),
            offsets=offsets_of(engine, counts),
            interactions=interactions_in_order(
                engine,
                filtering.ordered_after(log, settings.ties, settings.seed, rows.number, source.has_times),
                item_row,
                source.has_times,
            ),
            report=report,
            texts=texts,
            appended=Appended(
                dataset,
                {"interactions": piece, "fingerprint": fingerprint},
                _waiting(engine, waiting, rows, source, settings),
            ),
        )


def _read_alike(engine: Engine, dataset: PreparedDataset, source: Source, piece: str) -> Source:
    """The source with item ids written as those of the folder; a warning if none is in the folder."""
    known = _read(engine, dataset.path / "items.parquet", {"raw_id": "raw_id"})
    found, catalogue, changed = as_known(engine, source.log, source.catalogue, known)
    source = replace(source, log=found, catalogue=catalogue)
    if changed:
        source = replace(source, counted={**source.counted, "item_ids_read_as_integers": changed})
    items = engine.store(found.filter(found.item.notnull()).select(raw_id="item").distinct())
    number = engine.value(items.count())
    file = dataset.path / WAITING / "log.parquet"
    seen = known.union(_read(engine, file, {"raw_id": "item"})) if file.exists() else known
    if number and not engine.value(items.semi_join(seen, "raw_id").count()):
        logger.warning(
            "%s: none of its %s items (such as %s) is in %s (such as %s). %s",
            piece,
            f"{number:,}",
            example_id(engine, items),
            dataset.path,
            example_id(engine, known),
            why_no_item_matches(engine, found, items, known),
        )
    engine.drop(items)
    return source


def _fingerprint(engine: Engine, source: Source) -> str:
    """SHA-256 of the rows of a log, whatever files it came in; of the rows of the catalogue if it comes alone."""
    rows, columns = engine.positioned(source.log), ["user", "item", "time"]
    if source.catalogue is not None and engine.value(rows.count()) == 0:
        rows, columns = source.catalogue, ["raw_id", *source.attributes]
    digests = [hashlib.sha256() for _ in columns]
    for batch in engine.stream(rows.order_by("position").select(*columns)):
        for digest, column in zip(digests, batch.columns, strict=True):
            if pa.types.is_string(column.type):
                for value in column.to_pylist():
                    digest.update(b"\0\0" if value is None else value.encode() + b"\0")
            else:
                digest.update(np.ascontiguousarray(column.fill_null(-1).to_numpy(zero_copy_only=False), np.int64).data)
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()


def _check_fits(dataset: PreparedDataset, source: Source, piece: str, fingerprint: str) -> None:
    for number, before in enumerate(dataset.manifest.pieces, start=1):
        if before.get("fingerprint") == fingerprint:
            raise SettingsError(
                [
                    f"{piece} was appended to {dataset.path} already, as piece {number} "
                    f"({before.get('interactions')}); nothing was changed."
                ]
            )
    if source.catalogue is not None and source.attributes != dataset.manifest.attributes:
        raise SettingsError(
            [
                f"The catalogue has the attributes {listed(source.attributes)}, but {dataset.path} has "
                f"{listed(dataset.manifest.attributes) or 'none'}; give the new items the same columns in the same order."
            ]
        )


def _catalogue(engine: Engine, dataset: PreparedDataset, source: Source, scratch: Path) -> ir.Table:
    """What is known of items that are not in the folder: those that wait, then the piece's. Known items keep their texts."""
    attributes = dataset.manifest.attributes
    file = dataset.path / WAITING / "items.parquet"
    if not file.exists():
        file = scratch / "no-items.parquet"
        pq.write_table(pa.table({name: pa.array([], pa.string()) for name in ("raw_id", *attributes)}), file)
    known = _read(engine, dataset.path / "items.parquet", {"raw_id": "raw_id"})
    columns = {f"column_{k}": name for k, name in enumerate(["raw_id", *attributes])}
    stored = engine.positioned(engine.store_rows(parquet_table(engine, SourceFiles.of(file), columns)))
    waiting = stored.select(**{name: column for column, name in columns.items()}, position="position")
    if source.catalogue is None:
        return engine.store(waiting.anti_join(known, "raw_id"))
    new = source.catalogue.select(
        "raw_id", *attributes, position=source.catalogue.position + engine.value(waiting.count())
    )
    # Of an item that waits the newest text counts, as it is not in the folder yet.
    return engine.store(waiting.anti_join(new, "raw_id").union(new).anti_join(known, "raw_id"))


def _code(
    engine: Engine,
    dataset: PreparedDataset,
    source: Source,
    settings: FilterSettings,
    report: dict[str, int],
    scratch: Path,
) -> _Rows:
    raw = engine.positioned(source.log)
    report["rows_read"] = engine.value(raw.count())
    report["rows_without_user_or_item"] = engine.value(raw.filter(raw.user.isnull() | raw.item.isnull()).count())
    raw = raw.filter(raw.user.notnull() & raw.item.notnull()).select("user", "item", "time", "variant", "position")
    # Rows of earlier pieces outside the k-core come between the folder's and the piece's.
    settled, number = dataset.num_interactions, dataset.num_interactions
    raw = raw.mutate(position=raw.position + settled)
    file = dataset.path / WAITING / "log.parquet"
    if file.exists():
        columns = {name: name for name in ("user", "item", "time")}
        waited = engine.positioned(_read(engine, file, columns))
        waited = waited.select("user", "item", "time", variant=ibis.null("int64"), position=waited.position + settled)
        number += engine.value(waited.count())
        raw = waited.union(raw.mutate(position=raw.position + (number - settled)))
    raw = engine.store(raw)
    users = _codes(
        engine, raw, "user", _read(engine, dataset.path / "users.parquet", {"raw_id": "raw_id", "code": "user"})
    )
    items = _codes(
        engine, raw, "item", _read(engine, dataset.path / "items.parquet", {"raw_id": "raw_id", "code": "item"})
    )
    assert source.catalogue is not None
    unknown = items.filter(items.code >= dataset.num_items).anti_join(source.catalogue, "raw_id")
    if dataset.manifest.attributes:
        report["items_without_metadata"] = engine.value(unknown.count())
    if settings.drop_without_metadata:
        items = engine.store(items.anti_join(unknown, "raw_id"))
    coded = engine.store(filtering.coded(raw, users, items))
    if settings.drop_without_metadata:
        report["rows_of_items_without_metadata"] = engine.value(raw.count()) - engine.value(coded.count())
    old = _read(engine, _old_log(dataset, scratch), {name: name for name in ("user", "item", "time", "position")})
    earlier = engine.store(old.union(coded.filter(coded.position < number).select("user", "item", "time", "position")))
    fresh = engine.store(coded.filter(coded.position >= number), coded)
    return _Rows(users, items, earlier, fresh, settled, number)


def _read(engine: Engine, file: Path, columns: dict[str, str]) -> ir.Table:
    return engine.store_rows(parquet_table(engine, SourceFiles.of(file), columns))


def _codes(engine: Engine, log: ir.Table, key: str, known: ir.Table) -> ir.Table:
    """`raw_id`, `code`: the known codes, then new ones as they first appear."""
    new = log.anti_join(known, log[key] == known.raw_id)
    numbered = filtering.codes_by_appearance(engine, new, key)
    first = engine.value(known.count())
    return engine.store(known.union(numbered.select("raw_id", code=(numbered.code + first).cast("int32"))), numbered)


def _old_log(dataset: PreparedDataset, scratch: Path) -> Path:
    """The folder's interactions as a Parquet file, in blocks of users."""
    schema = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("time", pa.int64()), ("position", pa.int64())])
    offsets, times = np.asarray(dataset.sequences.offsets), dataset.timestamps
    file = scratch / "folder.parquet"
    with pq.ParquetWriter(file, schema) as writer:
        for first, last in user_blocks(offsets):
            start, stop = int(offsets[first]), int(offsets[last])
            users = np.repeat(np.arange(first, last), np.diff(offsets[first : last + 1])).astype(np.int32)
            moments = (
                pa.nulls(stop - start, pa.int64()) if times is None else pa.array(times[start:stop] * MICROSECONDS)
            )
            items = pa.array(np.asarray(dataset.sequences.values[start:stop]))
            writer.write_table(
                pa.table([pa.array(users), items, moments, pa.array(np.arange(start, stop))], schema=schema)
            )
    return file


def _without_repeated(
    engine: Engine, rows: _Rows, settings: FilterSettings, has_times: bool, report: dict[str, int]
) -> _Rows:
    """Repeated rows out: within the piece, and those that the folder has."""
    before = engine.value(rows.fresh.count())
    fresh = engine.store(filtering.without_duplicates(rows.fresh, settings.duplicates))
    distinct = engine.value(fresh.count())
    report["duplicate_rows"] = before - distinct
    earlier = rows.earlier
    if settings.duplicates == "first" and has_times:
        # A row of the piece may be earlier than the folder's.
        all_rows = earlier.union(fresh.select("user", "item", "time", "position")).mutate(variant=ibis.null("int64"))
        first = engine.store(filtering.without_duplicates(all_rows, "first"))
        earlier, fresh = (
            engine.store(first.filter(first.position < rows.number)),
            engine.store(first.filter(first.position >= rows.number)),
        )
    elif settings.duplicates == "first" or (settings.duplicates == "identical" and has_times):
        if settings.duplicates == "first":
            fresh = engine.store(fresh.anti_join(earlier, ["user", "item"]))
        else:
            fresh = engine.store(_not_in(fresh, earlier, rows.settled))
    number = engine.value(fresh.count())
    report["rows_already_in_the_folder"] = distinct - number
    if number == distinct and settings.duplicates != "first":
        _warn_of_the_folders_own(engine, rows, fresh, has_times)
    return replace(rows, earlier=earlier, fresh=fresh)


def _check_new(
    engine: Engine, rows: _Rows, settings: FilterSettings, catalogue: ir.Table, report: dict[str, int]
) -> None:
    if engine.value(rows.fresh.count()) or (settings.catalogue == "all" and engine.value(catalogue.count())):
        return
    raise DataFormatError(
        f"There is nothing to append: of the {report['rows_read']:,} rows read, "
        f"{report['rows_without_user_or_item']:,} lack a user or an item, {report['duplicate_rows']:,} repeat others, "
        f"{report['rows_already_in_the_folder']:,} are in the folder already."
    )


def _warn_of_the_folders_own(engine: Engine, rows: _Rows, fresh: ir.Table, has_times: bool) -> None:
    """Where no row is dropped for being there already, the log of which the folder was made would count twice."""
    keys = ["user", "item", "time"] if has_times else ["user", "item"]
    piece = fresh.mutate(time=_second(fresh.time)) if has_times else fresh
    again = engine.value(rows.earlier.filter(rows.earlier.position < rows.settled).semi_join(piece, keys).count())
    if 2 * again > rows.settled:
        logger.warning(
            "%s of the %s interactions of the folder are in the piece, too, and none of its rows was left out: if it is the "
            "log that the folder was made of, its rows count twice now; prepare the folder again.",
            f"{again:,}",
            f"{rows.settled:,}",
        )


def _not_in(fresh: ir.Table, earlier: ir.Table, settled: int) -> ir.Table:
    """The rows that `earlier` has not: its first `settled`, the folder's, have whole seconds, others exact times."""
    waiting = earlier.filter(earlier.position >= settled)
    fresh = fresh.anti_join(waiting, ["user", "item", "time"])
    folder = earlier.filter(earlier.position < settled).select(of_user="user", of_item="item", second="time")
    same = [fresh.user == folder.of_user, fresh.item == folder.of_item, _second(fresh.time) == folder.second]
    return fresh.anti_join(folder, same)


def _second(time: ir.IntegerColumn) -> ir.IntegerValue:
    """Microseconds of the whole second; downwards before 1970, too, where the remainder is negative."""
    return time - (time % MICROSECONDS + MICROSECONDS) % MICROSECONDS


def _core(engine: Engine, rows: _Rows, settings: FilterSettings, report: dict[str, int]) -> tuple[ir.Table, ir.Table]:
    """The rows that stay, and those that wait."""
    columns = ["user", "item", "time", "position"]
    log = engine.store(rows.earlier.select(*columns).union(rows.fresh.select(*columns)))
    candidates = engine.store(log.filter(log.position >= rows.settled))
    if settings.k_core > 1:
        log, report["k_core_rounds"] = filtering.k_core(engine, log, settings.k_core, settings.k_core)
    waiting = engine.store(candidates.anti_join(log, "position"), candidates)
    report["rows_of_earlier_pieces_taken_in"] = engine.value(
        log.filter((log.position >= rows.settled) & (log.position < rows.number)).count()
    )
    report["rows_added"] = engine.value(log.filter(log.position >= rows.number).count())
    report["rows_waiting"] = engine.value(waiting.count())
    return log, waiting


def _absent(codes: ir.Table, known: int, log: ir.Table, waiting: ir.Table, name: str) -> ir.Table:
    """Those of the users or items that only rows outside the k-core have; the folder has the first `known`."""
    new = codes.filter(codes.code >= known)
    return new.semi_join(waiting.select(code=name), "code").anti_join(log.select(code=name), "code")


def _all_items(dataset: PreparedDataset, new: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield dataset.items(["raw_id", *dataset.manifest.attributes, "text"])
    yield from new


def _waiting(
    engine: Engine, waiting: ir.Table, rows: _Rows, source: Source, settings: FilterSettings
) -> dict[str, Iterator[pa.RecordBatch]]:
    """The tables of `waiting/`, by the names of their files; none if no row waits.

    The rows are written in the order in which they will enter: their position then decides, where times do not.
    """
    if engine.value(waiting.count()) == 0:
        return {}
    users = rows.users.rename(user_raw="raw_id", user_code="code")
    items = rows.items.rename(item_raw="raw_id", item_code="code")
    named = waiting.inner_join(users, waiting.user == users.user_code)
    named = named.inner_join(items, named.item == items.item_code)
    log = engine.store(named.select(user="user_raw", item="item_raw", time="time", position="position"))
    in_order = filtering.in_final_order(log, settings.ties, settings.seed, rows.number, source.has_times)
    assert source.catalogue is not None
    catalogue = source.catalogue.semi_join(log.select(raw_id="item"), "raw_id")
    return {
        "log.parquet": engine.stream(in_order.select("user", "item", "time")),
        "items.parquet": engine.stream(catalogue.order_by("position").drop("position")),
    }
