"""Benchmark files as UniSRec and VQ-Rec released them (RecBole's "benchmark filename" form).

A folder holds `<name>.{train,valid,test}.inter` with one row for every (user, history, target), the history cut to
the last 50 items; `<name>.item2index` and `<name>.user2index` (raw id, index); `<name>.text` (raw id, text; in an
order of its own); and item vectors `<name>.feat<N><POOLING>` as bare float32, row = item index. Here the rows are put
together again to one full sequence a user, and every row is checked against it.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from linguarec.data.attribute_names import attribute_names
from linguarec.data.features import FeatureInfo
from linguarec.data.folder import Content, sequences_in_pieces
from linguarec.data.ragged import Ragged
from linguarec.data.readers.packing import opened
from linguarec.data.vectors import check_finite
from linguarec.errors import DataFormatError, quoted
from linguarec.regular import check_regular

HEADER = ["user_id:token", "item_id_list:token_seq", "item_id:token"]
PARTS = ("train", "valid", "test")
NOT_FINITE = "Make the file anew, or take it out of the folder and encode the texts once they are prepared."

Row = tuple[list[int], int]


@dataclass(frozen=True)
class Benchmark:
    """`sequences`: full item sequence of each user (released item indices). `texts` and `attributes` are by raw item
    id.

    `window`: the longest history found (the released files cut at 50).
    """

    name: str
    sequences: Ragged
    raw_items: list[str]
    raw_users: list[str]
    texts: dict[str, str]
    attribute_names: list[str]
    attributes: dict[str, dict[str, str]]
    window: int


def content(folder: Path, name: str, keep_blanks: bool) -> Content:
    """The content of a prepared folder from the benchmark files `<name>.*` of `folder`.

    `keep_blanks`: texts stay as they are; otherwise blanks are made single and stripped.

    Raises:
        DataFormatError: see `read_benchmark` and `read_vectors`.
    """
    found = read_benchmark(folder, name)
    texts = [found.texts.get(raw_id, "") for raw_id in found.raw_items]
    if not keep_blanks:
        texts = [" ".join(text.split()) for text in texts]
    report = {
        "items_without_text": sum(not text.strip() for text in texts),
        "texts_of_unknown_items": len(found.texts.keys() - set(found.raw_items)),
    }
    columns = {"raw_id": pa.array(found.raw_items, pa.string())}
    for attribute in found.attribute_names:
        values = [found.attributes.get(raw_id, {}).get(attribute) or None for raw_id in found.raw_items]
        columns[attribute] = pa.array(values, pa.string())
    if found.attributes:
        report["items_without_attributes"] = sum(raw_id not in found.attributes for raw_id in found.raw_items)
    features = {}
    for feature, vectors in read_vectors(folder, name, found.raw_items).items():
        pooling = next((pooling for pooling in ("CLS", "Mean") if feature.endswith(pooling)), "unknown")
        info = FeatureInfo(feature, vectors.shape[1], pooling.lower(), None, None, text_rules="released")
        features[feature] = (vectors, info)
    return Content(
        items=[pa.table({**columns, "text": pa.array(texts, pa.string())})],
        attributes=found.attribute_names,
        users=[pa.array(found.raw_users, pa.string())],
        offsets=found.sequences.offsets,
        interactions=sequences_in_pieces(found.sequences),
        report=report,
        features=features,
    )


def read_benchmark(folder: Path, name: str) -> Benchmark:
    """Read the benchmark files `<name>.*` of `folder`.

    Raises:
        DataFormatError: a file is missing or malformed, an index is not in the index files, or the rows of a user are not
            pieces of one sequence.
    """
    raw_items = _read_index(folder / f"{name}.item2index")
    raw_users = _read_index(folder / f"{name}.user2index")
    rows: list[list[Row]] = [[] for _ in raw_users]
    window = 0
    for part in PARTS:
        file = folder / f"{name}.{part}.inter"
        of_part: list[list[Row]] = [[] for _ in raw_users]
        for user, history, target in _read_rows(file, len(raw_users), len(raw_items)):
            of_part[user].append((history, target))
            window = max(window, len(history))
        for user, found in enumerate(of_part):
            rows[user] += _oldest_first(found)
    sequences = []
    for user, of_user in enumerate(rows):
        sequence = _join(of_user, window)
        if sequence is None:
            raise DataFormatError(
                f"{folder}/{name}.*.inter: the rows of user {user} ({quoted(raw_users[user])}) are not pieces of one "
                "sequence in which each target follows its history; the train, valid and test files must come from one release."
            )
        sequences.append(sequence)
    texts = _read_texts(folder / f"{name}.text")
    attribute_names, attributes = _read_attributes(folder)
    return Benchmark(
        name, Ragged.from_lists(sequences), raw_items, raw_users, texts, attribute_names, attributes, window
    )


def read_vectors(folder: Path, name: str, raw_items: list[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Item vectors [N, D] of every file `<name>.feat*`, by the part of the file name after the first dot ("feat1CLS").

    Raises:
        DataFormatError: a file is not a whole number of float32 rows, or a vector holds NaN or an infinity.
    """
    found, num_items = {}, len(raw_items)
    for file in sorted(folder.glob(f"{name}.feat*")):
        check_regular(file, DataFormatError)
        values = np.fromfile(file, dtype=np.float32)
        if num_items == 0 or file.stat().st_size % 4 or len(values) == 0 or len(values) % num_items:
            raise DataFormatError(
                f"{file}: {file.stat().st_size} bytes are not {num_items} rows of float32, one for each item of "
                f"{name}.item2index; the file is cut short or belongs to another data set."
            )
        vectors = values.reshape(num_items, -1)
        check_finite(vectors, file, lambda row: f"item {quoted(raw_items[row])}", NOT_FINITE)
        found[file.name.removeprefix(f"{name}.")] = vectors
    return found


def _read_index(file: Path) -> list[str]:
    """Raw ids in the order of their index, which must run from 0 without gaps."""
    by_index: dict[int, str] = {}
    for line_number, line in numbered_lines(file):
        raw_id, tab, index = line.rpartition("\t")
        if not tab or not index.isascii() or not index.isdigit():
            raise DataFormatError(
                f"{file}, line {line_number}: expected a raw id, a tab and a number, found {quoted(line)}."
            )
        if int(index) in by_index:
            raise DataFormatError(f"{file}, line {line_number}: the index {index} stands there twice.")
        by_index[int(index)] = raw_id
    if sorted(by_index) != list(range(len(by_index))):
        missing = next(index for index in range(len(by_index)) if index not in by_index)
        raise DataFormatError(f"{file}: indices must run from 0 without gaps; {missing} is missing.")
    if len(set(by_index.values())) != len(by_index):
        raise DataFormatError(f"{file}: a raw id stands there twice; every raw id has one index.")
    return [by_index[index] for index in range(len(by_index))]


def _read_rows(file: Path, num_users: int, num_items: int) -> Iterator[tuple[int, list[int], int]]:
    for line_number, line in numbered_rows(file):
        fields = line.split("\t")
        try:
            user, target = int(fields[0]), int(fields[2])
            history = [int(item) for item in fields[1].split(" ")]
        except (ValueError, IndexError) as error:
            raise DataFormatError(
                f"{file}, line {line_number}: expected a user index, item indices separated by blanks and an item index, "
                f"separated by tabs, found {quoted(line)}."
            ) from error
        if not 0 <= user < num_users or not all(0 <= item < num_items for item in (*history, target)):
            raise DataFormatError(
                f"{file}, line {line_number}: a user or item index is not in .user2index ({num_users:,} users) or "
                f".item2index ({num_items:,} items): {quoted(line)}."
            )
        yield user, history, target


def _oldest_first(rows: list[Row]) -> list[Row]:
    """Rows of one user and part by length of the history; histories cut to one length keep the direction of the file."""
    if len(rows) > 1 and len(rows[0][0]) > len(rows[-1][0]):
        return rows[::-1]
    if len(rows) > 1 and len(rows[0][0]) == len(rows[-1][0]) and rows[1][0][-1:] != [rows[0][1]]:
        return rows[::-1]
    return rows


def _join(rows: list[Row], window: int) -> list[int] | None:
    """The sequence that all rows are pieces of, or None if there is none."""
    if not rows:
        return []
    sequence = list(rows[0][0])
    for history, target in rows:
        if history != sequence[-window:]:
            return None
        sequence.append(target)
    return sequence


def _read_texts(file: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for line_number, line in numbered_lines(file):
        raw_id, tab, text = line.partition("\t")
        if not tab:
            raise DataFormatError(
                f"{file}, line {line_number}: expected a raw id, a tab and a text, found {quoted(line)}."
            )
        if line_number > 1:
            if raw_id in texts and texts[raw_id] != text:
                raise DataFormatError(
                    f"{file}, line {line_number}: item {quoted(raw_id)} has two different texts; keep one."
                )
            texts[raw_id] = text
    return texts


def _read_attributes(folder: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Attributes from `items.csv.gz` or `items.csv` (first column = raw id) beside the benchmark files, if there is one."""
    for file in (folder / "items.csv.gz", folder / "items.csv"):
        if file.exists():
            try:
                with opened(file, file) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as lines:
                    reader = csv.DictReader(lines)
                    key, *names = reader.fieldnames or [""]
                    if not names:
                        raise DataFormatError(
                            f"{file} has one column, {quoted(key)}; expected the raw id and attributes, separated by commas."
                        )
                    own = attribute_names(names, file)
                    columns = dict(zip(own, names, strict=True))
                    return own, {row[key]: {name: row[column] for name, column in columns.items()} for row in reader}
            except UnicodeDecodeError as error:
                raise DataFormatError(f"{file} is not UTF-8 ({error}); convert the file.") from error
    return [], {}


def numbered_rows(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of an `.inter` file after its header.

    Raises:
        DataFormatError: the header is another one, or see `numbered_lines`.
    """
    for line_number, line in numbered_lines(file):
        if line_number > 1:
            yield line_number, line
        elif line.split("\t") != HEADER:
            raise DataFormatError(f"{file}: the header is {quoted(line)}, expected {HEADER} separated by tabs.")


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their end, which is a line feed only: texts may hold other line separators.

    Raises:
        DataFormatError: the file is missing or not UTF-8.
    """
    if not file.is_file():
        raise DataFormatError(f"{file} is missing; the files of a data set belong together in one folder.")
    with file.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            try:
                yield line_number, line.rstrip(b"\r\n").decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataFormatError(
                    f"{file}, line {line_number} is not UTF-8 ({error}); convert the file."
                ) from error
