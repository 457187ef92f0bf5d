"""The steps from a raw log and its catalogue to the content of a prepared folder.

Order of the steps: items without metadata out (if asked), duplicates out, k-core to its fixed point, total order.
Users and items are numbered as they first appear in the source file.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from linguarec.data import filtering
from linguarec.data.engine import Engine, EngineChoice, open_engine
from linguarec.data.filtering import Duplicates, Ties
from linguarec.data.folder import Content
from linguarec.data.item_ids import example_id, why_no_item_matches
from linguarec.errors import DataFormatError

MICROSECONDS = 1_000_000
Catalogue = Literal["log", "all"]
MakeText = Callable[[list[str | None]], tuple[str, int, int]]


@dataclass(frozen=True)
class FilterSettings:
    """What stays, and in which order.

    `k_core`: least number of interactions of a user and of an item (0 or 1 = all stay). `catalogue`: "log" keeps the
    items that occur in the log, "all" also the rest of the catalogue. `drop_without_metadata`: items that the
    catalogue does not know leave the log (otherwise they stay, with an empty text).
    """

    k_core: int
    ties: Ties
    seed: int
    duplicates: Duplicates
    catalogue: Catalogue
    drop_without_metadata: bool
    engine: EngineChoice


@dataclass(frozen=True)
class Source:
    """What a reader found.

    `log`: a table as `Engine.store_rows` stores it, as `filtering` describes it, without the column `position`.
    `catalogue`: a stored table
    `raw_id`, `position`, the attribute columns; None = there is no catalogue. `has_times`: whether `time` is a moment
    in the world (and not only a rank). `dropped`: rows of the log that the reader dropped, by reason. `counted`: what else
    it counted for the report; `rows_read` if it dropped rows. `texts`: attributes that the source holds as text, so that they
    are no numbers, whatever they look like.
    """

    log: ir.Table
    catalogue: ir.Table | None
    attributes: list[str]
    has_times: bool
    dropped: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    texts: frozenset[str] = frozenset()


Reader = Callable[[Engine, Path], Source]


@contextlib.contextmanager
def prepare_content(scratch: Path, read: Reader, settings: FilterSettings, make_text: MakeText) -> Iterator[Content]:
    """Run all steps in `scratch`; the content streams out of the database while the block is open.

    Raises:
        DataFormatError: a source is malformed, the log and the catalogue share no item, or no interaction is left.
    """
    with open_engine(scratch, settings.engine) as engine:
        source = read(engine, scratch)
        report = {**source.counted, **source.dropped}
        users, items, log = _code(engine, source, settings, report)
        log = _filter(engine, log, settings, report)

        counts = engine.store(log.group_by("user").agg(rows=log.count()))
        offsets = offsets_of(engine, counts)
        kept_items = engine.store(items.semi_join(log.select(code="item"), "code"))
        item_row = dense_rows(engine, kept_items, engine.value(items.code.max()))
        users = users.semi_join(counts.select(code="user"), "code").order_by("code").select("raw_id")
        yield Content(
            items=catalogue_pieces(engine, source, kept_items, settings.catalogue, make_text, report),
            attributes=source.attributes,
            users=(batch.column(0) for batch in engine.stream(users)),
            offsets=offsets,
            interactions=interactions_in_order(
                engine, filtering.ordered(log, settings.ties, settings.seed), item_row, source.has_times
            ),
            report=report,
            texts=source.texts,
        )


def _code(
    engine: Engine, source: Source, settings: FilterSettings, report: dict[str, int]
) -> tuple[ir.Table, ir.Table, ir.Table]:
    """Codes of users, codes of items, and the log in these codes."""
    raw = engine.positioned(source.log)
    report["rows_read"] = report.get("rows_read", engine.value(raw.count()))
    nameless = raw.filter(raw.user.isnull() | raw.item.isnull())
    report["rows_without_user_or_item"] = engine.value(nameless.count())
    raw = raw.filter(raw.user.notnull() & raw.item.notnull())
    users = filtering.codes_by_appearance(engine, raw, "user")
    items = filtering.codes_by_appearance(engine, raw, "item")
    if source.catalogue is not None:
        unknown = items.anti_join(source.catalogue, "raw_id")
        number_unknown, number = engine.value(unknown.count()), engine.value(items.count())
        report["items_without_metadata"] = number_unknown
        if number and number_unknown == number:
            why = why_no_item_matches(engine, raw, items, source.catalogue)
            raise DataFormatError(
                f"None of the {number:,} items of the log (such as {example_id(engine, items)}) is in the catalogue (such as "
                f"{example_id(engine, source.catalogue)}). {why}"
            )
        if settings.drop_without_metadata and number_unknown:
            items = engine.store(items.semi_join(source.catalogue, "raw_id"), items)
    log = engine.store(filtering.coded(raw, users, items), source.log)
    dropped = report["rows_read"] - report["rows_without_user_or_item"] - engine.value(log.count())
    dropped -= sum(source.dropped.values())
    if settings.drop_without_metadata:
        report["rows_of_items_without_metadata"] = dropped
    return users, items, log


def _filter(engine: Engine, log: ir.Table, settings: FilterSettings, report: dict[str, int]) -> ir.Table:
    before = engine.value(log.count())
    if settings.duplicates == "keep":
        report["repeated_rows_kept"] = before - engine.value(filtering.without_duplicates(log, "identical").count())
    log = engine.store(filtering.without_duplicates(log, settings.duplicates), log)
    distinct = engine.value(log.count())
    report["duplicate_rows"] = before - distinct
    if settings.k_core > 1:
        log, rounds = filtering.k_core(engine, log, settings.k_core, settings.k_core)
        report["k_core_rounds"] = rounds
        report["rows_outside_k_core"] = distinct - engine.value(log.count())
    if distinct == 0:
        nameless, rows = report["rows_without_user_or_item"], report["rows_read"]
        found = f"{nameless:,} of the {rows:,} rows of the log lack a user or an item" if rows else "the log has no row"
        raise DataFormatError(f"No interaction is left: {found}; check the file and the columns of users and items.")
    if engine.value(log.count()) == 0:
        raise DataFormatError(
            f"No interaction is left: {report['rows_read']:,} rows were read, {distinct:,} were usable and distinct, none "
            f"of them lies in the {settings.k_core}-core (users and items with at least {settings.k_core} interactions each); "
            "lower --k-core, or check the columns of users and items."
        )
    return log


def offsets_of(engine: Engine, counts: ir.Table) -> npt.NDArray[np.int64]:
    """Where each user's interactions begin, from a table `user`, `rows`; users in the order of their codes."""
    lengths = [batch.column(0).to_numpy() for batch in engine.stream(counts.order_by("user").select("rows"))]
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)


def dense_rows(engine: Engine, kept_items: ir.Table, highest: int) -> npt.NDArray[np.int32]:
    """Row in the folder of each item code, -1 = not kept."""
    row = np.full(highest + 1, -1, dtype=np.int32)
    start = 0
    for batch in engine.stream(kept_items.order_by("code").select("code")):
        row[batch.column(0).to_numpy()] = np.arange(start, start + len(batch), dtype=np.int32)
        start += len(batch)
    return row


def interactions_in_order(
    engine: Engine, in_order: ir.Table, item_row: npt.NDArray[np.int32], has_times: bool
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64] | None]]:
    """Item rows and times in seconds of an ordered log, in pieces."""
    for batch in engine.stream(in_order.select("item", "time") if has_times else in_order.select("item")):
        times = batch.column(1).to_numpy() // MICROSECONDS if has_times else None
        yield item_row[batch.column(0).to_numpy()], times


def catalogue_pieces(
    engine: Engine,
    source: Source,
    kept_items: ir.Table,
    catalogue: Catalogue,
    make_text: MakeText,
    report: dict[str, int],
) -> Iterator[pa.Table]:
    """Item rows with attributes and text: first the items of the log by code, then the rest of the catalogue."""
    counters = ("items_without_text", "long_fields", "blanked_fields")
    report.update(dict.fromkeys(counters, 0))
    for table in _attribute_pieces(engine, source, kept_items, catalogue, report):
        texts = []
        for row in zip(*(table[name].to_pylist() for name in source.attributes), strict=True):
            text, long_fields, blanked_fields = make_text(list(row))
            report["items_without_text"] += not text.strip()
            report["long_fields"] += long_fields
            report["blanked_fields"] += blanked_fields
            texts.append(text)
        if not source.attributes:
            texts = [""] * len(table)
            report["items_without_text"] += len(table)
        yield table.append_column("text", pa.array(texts, pa.string()))


def _attribute_pieces(
    engine: Engine, source: Source, kept_items: ir.Table, catalogue: Catalogue, report: dict[str, int]
) -> Iterator[pa.Table]:
    if source.catalogue is None:
        for batch in engine.stream(kept_items.order_by("code").select("raw_id")):
            yield pa.Table.from_batches([batch])
        return
    rows = source.catalogue
    relevant = rows if catalogue == "all" else rows.semi_join(kept_items, "raw_id")
    first = engine.store(relevant.group_by("raw_id").agg(position=relevant.position.min()))
    versions = relevant.select("raw_id", *source.attributes).distinct()
    versions = versions.group_by("raw_id").agg(versions=versions.count())
    report["repeated_catalogue_rows"] = engine.value(relevant.count()) - engine.value(first.count())
    report["items_with_different_texts"] = engine.value(versions.filter(versions.versions > 1).count())
    unique = engine.store(rows.semi_join(first, ["raw_id", "position"]))
    known = kept_items.left_join(unique.rename(known_id="raw_id"), kept_items.raw_id == unique.raw_id)
    for batch in engine.stream(known.order_by("code").select("raw_id", *source.attributes)):
        yield pa.Table.from_batches([batch])
    if catalogue == "log":
        left = rows.anti_join(kept_items, "raw_id")
        report["catalogue_items_left_out"] = engine.value(left.raw_id.nunique())
    else:
        rest = unique.anti_join(kept_items, "raw_id")
        report["items_without_interactions"] = engine.value(rest.count())
        for batch in engine.stream(rest.order_by("position").select("raw_id", *source.attributes)):
            yield pa.Table.from_batches([batch])
