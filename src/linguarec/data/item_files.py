"""Small files that a user hands over: new items, lists of ids, histories."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from linguarec.errors import DataFormatError, SettingsError

_LONGEST_FIELD = 1 << 27
_JSON_ENDINGS = (".jsonl", ".ndjson")


def read_items(file: Path) -> list[dict[str, Any]]:
    """New items from a CSV (with a header line), Parquet or JSON-lines file, values as they stand there.

    Raises:
        DataFormatError: the file is of another kind or holds no item, or a row cannot be read; the row is named.
    """
    kind = file.suffix.lower()
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        ".csv": _csv_rows,
        ".parquet": _parquet_rows,
        **dict.fromkeys(_JSON_ENDINGS, _json_rows),
    }
    if kind not in readers:
        raise SettingsError([f"items is {file}; expected a file that ends in {', '.join(readers)}"])
    try:
        found = list(readers[kind](file))
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
    if not found:
        raise DataFormatError(f"{file} holds no items; expected one a row, with their raw_id.")
    return found


def _csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    import csv

    csv.field_size_limit(_LONGEST_FIELD)
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, strict=True)
        try:
            names = list(reader.fieldnames or [])
            if "raw_id" not in names or len(set(names)) < len(names):
                raise DataFormatError(
                    f"{file}: the columns are {', '.join(map(repr, names))}; expected raw_id and others, each once, "
                    "separated by commas."
                )
            for row in reader:
                if None in row or None in row.values():
                    raise DataFormatError(
                        f"{file}, line {reader.line_num}: expected {len(names)} columns ({', '.join(names)}); found more or "
                        "fewer."
                    )
                yield {name: value or None for name, value in row.items()}
        except csv.Error as error:
            raise DataFormatError(
                f"{file}, after line {reader.line_num}: {error}; expected CSV with quotes that are closed."
            ) from error


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    import json

    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataFormatError(f"{file}, line {number} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise DataFormatError(f"{file}, line {number}: expected an object, found {type(row).__name__}.")
            yield row


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from pq.read_table(file).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataFormatError(f"{file} is not a Parquet file: {error}.") from error


def read_ids(file: Path) -> list[str]:
    """The raw ids in a file, one a line.

    Raises:
        DataFormatError: there are none, or the file is not UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataFormatError(f"{file} holds no ids; expected one raw id a line.")
    return found
