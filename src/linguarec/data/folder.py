"""Writes the parts of a prepared dataset folder, in pieces, so that a log larger than memory passes through.

`write_folder` is the only place that knows how the parts fit together; readers and filters hand it a `Content`.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from linguarec.arrays import save_array
from linguarec.columns import NumberFinder
from linguarec.data.dataset import FORMAT_VERSION, MANIFEST_FILE, Manifest, PreparedDataset
from linguarec.data.features import FeatureInfo, write_vectors
from linguarec.data.npy import write_npy
from linguarec.data.ragged import Ragged
from linguarec.data.splitting import SplitSettings, write_splits
from linguarec.errors import DataFormatError, OutputError, listed
from linguarec.files import Marker, write_json, writing_folder
from linguarec.seals import seal

ADDED = ("features/", "codes/", "tokens/")  # what later commands store in a prepared folder
logger = logging.getLogger(__name__)
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Appended:
    """Marks a content as a folder with something more: the folder `before`, the description of the `piece`, and
    tables by the names of their files in `waiting/`, for the next piece."""

    before: PreparedDataset
    piece: dict[str, Any]
    waiting: dict[str, Iterator[pa.RecordBatch]]


@dataclass
class Content:
    """The content of a folder.

    `items`: pieces of a table with one row per item, in the order of the item rows: `raw_id`, the columns `attributes`,
    `text`. `users`: raw ids in the order of the user rows, in pieces. `offsets` [users + 1] int64. `interactions`:
    pieces (item rows [n], timestamps [n] in seconds or None) in the order of users, then of time. `report` counts
    dropped and repaired rows; it may still grow until the last piece has been read. `features`: imported item vectors by
    name. `word_drops`: vectors of texts with words left out, by the name of the features, one array per draw. `texts`:
    attributes that are texts even if they look like numbers, because the source says so. `appended`: of a folder that grows.
    """

    items: Iterable[pa.Table]
    attributes: list[str]
    users: Iterable[pa.Array]
    offsets: npt.NDArray[np.int64]
    interactions: Iterable[tuple[Integers, Integers | None]]
    report: dict[str, int] = field(default_factory=dict)
    features: dict[str, tuple[npt.NDArray[Any], FeatureInfo]] = field(default_factory=dict)
    word_drops: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)
    texts: Collection[str] = ()
    appended: Appended | None = None


@dataclass(frozen=True)
class Origin:
    """How a folder is made, for its manifest: the recipe, its arguments and the text rules."""

    recipe: str
    arguments: dict[str, Any]
    text_rules: str


def write_folder(
    path: Path,
    origin: Origin,
    splits: SplitSettings,
    overwrite: bool,
    make_content: Callable[[Path], AbstractContextManager[Content]],
) -> Manifest:
    """Write the folder `path` completely or not at all; `make_content` gets a scratch folder on the same disk.

    Raises:
        DataFormatError: the content holds no interaction.
        OutputError: `path` exists already, is not writable, or the disk is full.
    """
    with writing_folder(path, overwrite, Marker(MANIFEST_FILE, "fingerprint")) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        digest = hashlib.sha256()
        with make_content(scratch) as content:
            if content.offsets[-1] == 0:
                raise DataFormatError(f"There is nothing to prepare in {path}: no user of the source has an item.")
            finder = NumberFinder([name for name in content.attributes if name not in content.texts])
            num_items = _write_items(folder, content.items, content.attributes, digest, finder)
            _write_users(folder, content.users, digest)
            _write_sequences(folder, content, digest)
            if content.appended is not None:
                _write_appended(folder, content.appended)
                _warn_of_lost_numbers(content.appended.before.manifest, finder)
        for name, (vectors, info) in content.features.items():
            (folder / "features").mkdir(exist_ok=True)
            write_vectors(folder / "features", name, vectors, info)
            for draw, dropped in enumerate(content.word_drops.get(name, [])):
                save_array(folder / "features" / f"{name}.drop{draw}.npy", dropped)
        write_splits(folder, num_items, splits)
        shutil.rmtree(scratch)
        counts = {"users": len(content.offsets) - 1, "items": num_items, "interactions": int(content.offsets[-1])}
        manifest = Manifest(
            recipe=origin.recipe,
            arguments=origin.arguments,
            counts=counts,
            attributes=content.attributes,
            fingerprint=digest.hexdigest(),
            text_rules=origin.text_rules,
            report=dict(content.report) if content.appended is None else content.appended.before.manifest.report,
            format_version=FORMAT_VERSION,
            numbers=finder.found,
            pieces=_pieces(content, counts),
        )
        write_json(folder / MANIFEST_FILE, asdict(manifest))
        seal(folder, lambda file: not file.startswith(ADDED))
    return manifest


def _warn_of_lost_numbers(before: Manifest, finder: NumberFinder) -> None:
    if lost := [name for name in before.numbers if name not in finder.found]:
        logger.warning("%s: no numbers any more but text, as new items have other values there.", listed(lost))


def _pieces(content: Content, counts: dict[str, int]) -> list[dict[str, Any]]:
    """What was appended so far, the newest last."""
    if content.appended is None:
        return []
    before = content.appended.before.manifest
    added = {f"{what}_added": number - before.counts[what] for what, number in counts.items()}
    return [*before.pieces, {**content.appended.piece, **added, "report": dict(content.report)}]


def _write_appended(folder: Path, appended: Appended) -> None:
    """Rows that wait for the next piece, and the vectors of the items that were there before, for `encode` to go on with."""
    for name, batches in appended.waiting.items():
        (folder / "waiting").mkdir(exist_ok=True)
        writer = None
        for batch in batches:
            writer = writer or pq.ParquetWriter(folder / "waiting" / name, batch.schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()
    for name in appended.before.feature_names:
        if appended.before.feature_info(name).texts_fingerprint is not None:
            (folder / "features").mkdir(exist_ok=True)
            source = appended.before.feature_path(name)
            for file in (source, source.with_suffix(".json")):
                shutil.copyfile(file, folder / "features" / file.name)


def check_nothing_added(path: Path, imported: Sequence[str] = ()) -> None:
    """Refuse to replace a prepared folder, or a folder of several, in which later commands stored vectors, codes or tokens.

    Vectors that came with the source, and the `imported` codes, are not counted: they are imported again.

    Raises:
        OutputError: there are some; all are listed.
    """
    folders = [path, *(file.parent for file in path.glob(f"*/{MANIFEST_FILE}"))]
    found = []
    for folder in folders:
        dataset = PreparedDataset(folder, Manifest("", {}, {}, [], ""))
        names = {
            "features": [name for name in dataset.feature_names if dataset.feature_info(name).weights_sha256],
            "codes": [name for name in dataset.code_names if name not in imported],
            "tokens": dataset.token_names,
        }
        found += [(folder / kind / name).relative_to(path) for kind, named in names.items() for name in named]
    if found:
        raise OutputError(
            f"{path} holds what other commands made of it: {listed(map(str, found))}. --overwrite would throw that away; pass "
            "--discard as well, or choose another output folder."
        )


def check_carried_over(folder: Path) -> None:
    """Refuse to append to a folder that holds what cannot be carried over to more items.

    Raises:
        OutputError: there are codes, tokens, imported vectors or word-drop draws; all are listed.
    """
    dataset = PreparedDataset.open(folder)
    found = [f"codes/{name}" for name in dataset.code_names] + [f"tokens/{name}" for name in dataset.token_names]
    for name in dataset.feature_names:
        if dataset.feature_info(name).texts_fingerprint is None:
            found.append(f"features/{name} (imported)")
        elif dataset.feature_path(name).with_suffix(".drop0.npy").exists():
            found.append(f"word-drop draws of features/{name}")
    if found:
        raise OutputError(
            f"{folder} holds what was made for its items as they are, and would lack the new ones: {listed(found)}. "
            f"Pass --discard to "
            "throw that away (vectors that `encode` made stay), and make it again afterwards."
        )


def sequences_in_pieces(sequences: Ragged) -> Iterator[tuple[Integers, None]]:
    """Sequences held in memory, without timestamps, as one piece."""
    yield np.asarray(sequences.values), None


def _write_items(
    folder: Path, items: Iterable[pa.Table], attributes: list[str], digest: "hashlib._Hash", numbers: NumberFinder
) -> int:
    names = ["raw_id", *attributes, "text"]
    schema = pa.schema([("item", pa.int32()), *((name, pa.string()) for name in names)])
    # One digest per column, so that the result does not depend on the division of the table into pieces.
    columns = {name: hashlib.sha256() for name in names}
    written = 0
    with pq.ParquetWriter(folder / "items.parquet", schema) as writer:
        for piece in items:
            rows = pa.array(np.arange(written, written + len(piece), dtype=np.int32))
            writer.write_table(piece.select(names).add_column(0, "item", rows).cast(schema))
            numbers.look(piece)
            for name, column in columns.items():
                column.update(_bytes_of(piece[name]))
            written += len(piece)
    for column in columns.values():
        digest.update(column.digest())
    return written


def _write_users(folder: Path, users: Iterable[pa.Array], digest: "hashlib._Hash") -> None:
    schema = pa.schema([("user", pa.int32()), ("raw_id", pa.string())])
    written = 0
    with pq.ParquetWriter(folder / "users.parquet", schema) as writer:
        for raw_ids in users:
            rows = pa.array(np.arange(written, written + len(raw_ids), dtype=np.int32))
            writer.write_batch(pa.record_batch([rows, raw_ids.cast(pa.string())], schema=schema))
            digest.update(_bytes_of(raw_ids))
            written += len(raw_ids)


def _write_sequences(folder: Path, content: Content, digest: "hashlib._Hash") -> None:
    target = folder / "sequences"
    target.mkdir()
    total = int(content.offsets[-1])
    save_array(target / "offsets.npy", content.offsets.astype(np.int64))
    digest.update(content.offsets.astype(np.int64).tobytes())
    timestamps_file = folder / "scratch" / "timestamps.raw"
    has_times = True

    def items() -> Iterator[npt.NDArray[np.int32]]:
        nonlocal has_times
        with timestamps_file.open("wb") as raw:
            for rows, times in content.interactions:
                piece = np.ascontiguousarray(rows, dtype=np.int32)
                digest.update(piece.data)
                yield piece
                if times is None:
                    has_times = False
                else:
                    raw.write(np.ascontiguousarray(times, dtype=np.int64).data)

    write_npy(target / "items.npy", np.int32, total, items())
    if has_times and total:
        write_npy(target / "timestamps.npy", np.int64, total, _read_pieces(timestamps_file, digest))


def _read_pieces(path: Path, digest: "hashlib._Hash", size: int = 1 << 20) -> Iterator[npt.NDArray[np.int64]]:
    with path.open("rb") as file:
        while block := file.read(8 * size):
            digest.update(block)
            yield np.frombuffer(block, dtype=np.int64)


def _bytes_of(values: "pa.Array | pa.ChunkedArray") -> bytes:
    """The strings as bytes, each ended by a zero byte; a missing one is two zero bytes."""
    return b"".join(b"\0\0" if value is None else value.encode() + b"\0" for value in values.to_pylist())
