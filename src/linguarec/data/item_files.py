"""Small input files of the user: new items, lists of ids, histories."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from linguarec.comma_lists import split_by_commas
from linguarec.errors import DataFormatError, OutputError, SettingsError, listed, quoted
from linguarec.files import writing_file
from linguarec.values import written_id

_LONGEST_FIELD = 1 << 27
_JSON_ENDINGS = (".jsonl", ".ndjson")

NamedHistory = tuple[str, list[str]]
Columns = Mapping[str, Sequence[Any]]
ROW_FIELDS = ("user", "rank", "raw_id", "score", "title")  # of a recommendation


def read_items(file: Path) -> list[dict[str, Any]]:
    """New items from a CSV (with a header line), Parquet or JSON-lines file, with unchanged values.

    Raises:
        DataFormatError: the file has another format or holds no item, or a row cannot be read; the row is named.
    """
    found = _rows(file, "items", "raw_id")
    if not found:
        raise DataFormatError(f"{file} holds no items; expected one a row, with their raw_id.")
    return found


def read_histories(file: Path) -> list[NamedHistory]:
    """Histories from a CSV, Parquet or JSON-lines file: the `user`, or the number of the row from 1, and the `history`.

    A history is a list of raw ids, oldest first; in CSV they are separated by commas in one quoted field, as in
    `split_by_commas`.

    Raises:
        DataFormatError: the file has another format or holds no history, or a row has none or lacks an id; the row is named.
    """
    found: list[NamedHistory] = []
    for number, row in enumerate(_rows(file, "histories", "history"), start=1):
        value, where = row.get("history"), f"{file}, row {number}"
        if isinstance(value, str):
            try:
                value = split_by_commas(value)
            except ValueError as error:
                raise DataFormatError(f"{where}: its `history`: {error}.") from error
        if not isinstance(value, list) or not value:
            raise DataFormatError(f"{where}: its `history` is {quoted(value)}; expected a list of raw item ids.")
        ids = []
        for place, part in enumerate(value, start=1):
            raw_id = written_id(part, f"{where}: an id of its `history`")
            if raw_id is None:
                raise DataFormatError(f"{where}: its `history` has no id at place {place}; leave the place out.")
            ids.append(raw_id)
        named = written_id(row.get("user"), f"{where}: its `user`")
        found.append((named if named is not None else str(number), ids))
    if not found:
        raise DataFormatError(f"{file} holds no histories; expected one a row, in the column `history`.")
    return found


class RowsFormat(Protocol):
    """How a kind of file holds recommendations: rows are encoded by any process, and written in order by one."""

    def encoded(self, columns: Columns) -> Any:
        """Rows as the file holds them; `columns`: those of `ROW_FIELDS`, of equal lengths."""

    def writing(self, file: Path) -> AbstractContextManager[Callable[[Any], None]]:
        """Open a new file; yields the function that appends encoded rows."""


def rows_format(file: Path) -> RowsFormat:
    """The format of a file of recommendations by its suffix: Parquet, CSV or JSON lines.

    Raises:
        SettingsError: the suffix names another format.
    """
    kinds: dict[str, RowsFormat] = {
        ".parquet": _ParquetRows(),
        ".csv": _CsvRows(),
        **dict.fromkeys(_JSON_ENDINGS, _JsonRows()),
    }
    if file.suffix.lower() not in kinds:
        raise SettingsError([f"output is {file}; expected a file that ends in {', '.join(kinds)}"])
    return kinds[file.suffix.lower()]


@contextmanager
def writing_rows(file: Path, overwrite: bool) -> Iterator[Callable[[Any], None]]:
    """Write recommendations into a file; yields the function that appends rows that its `rows_format` encoded.

    Raises:
        SettingsError: the suffix names another format.
        OutputError: the file exists, and `overwrite` is false.
    """
    kind = rows_format(file)
    if file.exists() and not overwrite:
        raise OutputError(f"{file} exists already; choose another file, or pass --overwrite to replace it.")
    with writing_file(file) as temporary, kind.writing(temporary) as write:
        yield write


class _ParquetRows:
    def encoded(self, columns: Columns) -> Any:
        import pyarrow as pa

        return pa.table(dict(columns), schema=self._schema())

    @contextmanager
    def writing(self, file: Path) -> Iterator[Callable[[Any], None]]:
        import pyarrow.parquet as pq

        with pq.ParquetWriter(file, self._schema(), compression="zstd") as writer:
            yield writer.write_table

    def _schema(self) -> Any:
        import pyarrow as pa

        kinds = (pa.string(), pa.int32(), pa.string(), pa.float32(), pa.string())
        return pa.schema(list(zip(ROW_FIELDS, kinds, strict=True)))


class _TextRows:
    header = ""

    @contextmanager
    def writing(self, file: Path) -> Iterator[Callable[[bytes], None]]:
        with file.open("wb") as opened:

            def write(rows: bytes) -> None:
                opened.write(rows)

            write(self.header.encode())
            yield write


class _CsvRows(_TextRows):
    header = ",".join(ROW_FIELDS) + "\r\n"

    def encoded(self, columns: Columns) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(zip(*(columns[name] for name in ROW_FIELDS), strict=True))
        return text.getvalue().encode()


class _JsonRows(_TextRows):
    def encoded(self, columns: Columns) -> bytes:
        rows = zip(*(columns[name] for name in ROW_FIELDS), strict=True)
        lines = (json.dumps(dict(zip(ROW_FIELDS, row, strict=True)), ensure_ascii=False) for row in rows)
        return "".join(f"{line}\n" for line in lines).encode()


def _rows(file: Path, what: str, needed: str) -> list[dict[str, Any]]:
    """The rows of a small file, which in CSV must have the column `needed`."""
    kind = file.suffix.lower()
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        ".csv": lambda each: _csv_rows(each, needed),
        ".parquet": _parquet_rows,
        **dict.fromkeys(_JSON_ENDINGS, _json_rows),
    }
    if kind not in readers:
        raise SettingsError([f"{what} is {file}; expected a file that ends in {', '.join(readers)}"])
    try:
        return list(readers[kind](file))
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error


def _csv_rows(file: Path, needed: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_FIELD)
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, strict=True)
        try:
            names = list(reader.fieldnames or [])
            if needed not in names or len(set(names)) < len(names):
                cause = "separated by commas" if len(names) < 2 else f"rename the column of the ids to {needed}"
                raise DataFormatError(
                    f"{file}: the columns are {listed(names)}; expected {needed} and others, each once; {cause}."
                )
            for row in reader:
                if None in row or None in row.values():
                    raise DataFormatError(
                        f"{file}, line {reader.line_num}: expected {len(names)} columns ({listed(names)}); found more or "
                        "fewer."
                    )
                yield {name: value or None for name, value in row.items()}
        except csv.Error as error:
            raise DataFormatError(
                f"{file}, after line {reader.line_num}: {error}; expected CSV with quotes that are closed."
            ) from error


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataFormatError(f"{file}, line {number} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise DataFormatError(f"{file}, line {number}: expected an object, found {type(row).__name__}.")
            yield row


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from pq.read_table(file).to_pylist()
    except UnicodeDecodeError:
        raise
    except (pa.ArrowException, ValueError, OverflowError) as error:  # of times that Python has no type for
        raise DataFormatError(f"{file} is not a Parquet file: {error}.") from error


def read_ids(file: Path) -> list[str]:
    """The raw ids in a file, one per line.

    Raises:
        DataFormatError: there are no ids, or the file is not UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataFormatError(f"{file} holds no ids; expected one raw id a line.")
    return found
