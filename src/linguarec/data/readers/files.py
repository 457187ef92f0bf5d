"""Opens source files (CSV, Parquet) as tables, whatever they are packed in."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from linguarec.data.attribute_names import same_names
from linguarec.data.engine import Engine
from linguarec.data.readers.forms import CsvForm
from linguarec.data.readers.packing import (
    check_exists,
    duckdb_compression,
    is_parquet,
    opened,
    packing,
    scratch_copy,
    unpacked,
)
from linguarec.data.source_files import SourceFiles
from linguarec.errors import DataFormatError, listed, quoted

Encoding = Literal["utf-8", "latin-1"]
DELIMITERS = (",", "\t", ";", "|")
LONGEST_HEADER = 1 << 20  # bytes
_CONTROL_BYTES = set(range(32)) - set(b"\t\n\v\f\r\x1a\x1b")  # which no text holds
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def csv_table(
    engine: Engine,
    source: SourceFiles,
    scratch: Path,
    columns: Mapping[str, str],
    encoding: Encoding = "utf-8",
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
    quotes: bool = True,
) -> ir.Table:
    """CSV files as a table of a file; `columns` maps the wanted names to the names in the file; every value is a string.

    Empty values are NULL. `names`: the columns of a file without header line. Without `delimiter` the first of , tab
    ; | is taken whose header holds all the columns. Packed files are read as they are. In a file that mixes line ends,
    CR LF becomes LF, also inside quotes.

    Raises:
        DataFormatError: a file is missing, cut short or no text, or a column is missing; several files differ in their columns.
    """
    wanted = list(columns.values())
    if source.remote:
        opened_files, compression = source, "auto"
        header = None if names is not None else engine.first_line(source.paths[0])
        delimiter, found = _named_columns(header, names, delimiter, wanted, Path(source.shown), quotes)
    else:
        # Several files are opened as one table, of one packing.
        plain_only = engine.plain_files or len({packing(file) for file in source.files}) > 1
        plain = [unpacked(file, scratch, plain_only) for file in source.files]
        plain = [_with_one_line_end(copy, scratch, file) for copy, file in zip(plain, source.files, strict=True)]
        headers = []
        for copy, file in zip(plain, source.files, strict=True):
            header = None if names is not None else first_line(copy, encoding, file)
            headers.append(_named_columns(header, names, delimiter, wanted, file, quotes))
            if headers[-1] != headers[0]:
                raise DataFormatError(
                    f"{file} has the columns {listed(headers[-1][1])}, but {source.paths[0]} has "
                    f"{listed(headers[0][1])}; files of "
                    "one table need the same columns in the same order."
                )
        (delimiter, found), opened_files, compression = headers[0], source.moved(plain), duckdb_compression(plain[0])
    form = CsvForm(tuple(found), names is None, delimiter, quotes, encoding, compression)
    return engine.text_rows(opened_files, form).select(**columns)


def _named_columns(
    line: str | None,
    names: Sequence[str] | None,
    delimiter: str | None,
    wanted: Sequence[str],
    shown: Path,
    quotes: bool,
) -> tuple[str, list[str]]:
    """The delimiter and the names of the columns: those of the header `line`, or `names`."""
    found = (delimiter or ",", list(names)) if names is not None else None
    if found is None:
        found = _split_header(line or "", delimiter, wanted, shown, quotes)
    _check_distinct(found[1], shown)
    return found


def parquet_table(engine: Engine, source: SourceFiles, columns: Mapping[str, str]) -> ir.Table:
    """Parquet files as a table of a file; `columns` maps the wanted names to the names in the files; values keep their types.

    Raises:
        DataFormatError: a file or a column is missing, or a column has several types.
    """
    wanted = list(columns.values())
    if source.remote:
        _check_columns(engine.parquet_columns(source.paths[0]), wanted, Path(source.shown))
        return engine.parquet_rows(source, columns)
    types: dict[str, pa.DataType] = {}
    for file in source.files:
        schema = _parquet_schema(file)
        _check_columns([*schema.names, *source.partitions], wanted, file)
        for name in set(wanted) & set(schema.names):
            if types.setdefault(name, schema.field(name).type) != schema.field(name).type:
                raise DataFormatError(
                    f"{file}: the column {name!r} holds {schema.field(name).type}, but {types[name]} in "
                    f"{source.paths[0]}; write all "
                    "parts with one type."
                )
    return engine.parquet_rows(source, columns)


def are_parquet(source: SourceFiles) -> bool:
    """Whether the files are Parquet.

    Raises:
        DataFormatError: a file is missing, or some are Parquet and some are not.
    """
    if source.remote:
        return source.seems_parquet
    kinds = {is_parquet(file): file for file in source.files}
    if len(kinds) > 1:
        raise DataFormatError(
            f"{source.shown}: {kinds[True]} is Parquet, {kinds[False]} is not; name files of one kind."
        )
    return True in kinds


def _with_one_line_end(plain: Path, scratch: Path, shown: Path) -> Path:
    """The file itself if all its lines end alike, as DuckDB demands; else a copy in `scratch` whose lines end in LF."""
    lines = windows_lines = 0
    with opened(plain, shown) as content:
        for piece in _pieces(content):
            lines += piece.count(b"\n")
            windows_lines += piece.count(b"\r\n")
            if 0 < windows_lines < lines:
                break
        else:
            return plain
    copy = scratch_copy(shown, scratch, "one line end")
    with opened(plain, shown) as content, copy.open("wb") as target:
        target.writelines(piece.replace(b"\r\n", b"\n") for piece in _pieces(content))
    return copy


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    """The content in pieces; no CR LF is cut apart."""
    while piece := content.read(1 << 20):
        while piece.endswith(b"\r") and (more := content.read(1)):
            piece += more
        yield piece


def first_line(plain: Path, encoding: str, shown: Path, limit: int = LONGEST_HEADER) -> str:
    """The first line of a text file, of at most `limit` bytes, without its line end. Messages name the file as `shown`.

    Raises:
        DataFormatError: the file is empty, packed twice, no text or not in this encoding, or the line is longer.
    """
    with opened(plain, shown) as content:
        line = content.readline(limit)
    if not line.strip():
        raise DataFormatError(f"{shown} is empty.")
    if line.startswith(_UTF_16):
        raise DataFormatError(f"{shown} is UTF-16; convert it to UTF-8.")
    if b"\0" in line:
        raise DataFormatError(_no_text(line, shown))
    if len(line) == limit:
        raise DataFormatError(
            f"{shown}, line 1 is longer than {limit:,} bytes and begins with {quoted(line[:50])}; expected one row a line."
        )
    try:
        text = line.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        if _CONTROL_BYTES & set(line):
            raise DataFormatError(_no_text(line, shown)) from error
        raise DataFormatError(f"{shown} is not UTF-8 ({error}); pass --encoding latin-1 or convert it.") from error
    return text.rstrip("\r\n")


def _no_text(line: bytes, shown: Path) -> str:
    return f"{shown} is no text file: it begins with {quoted(line[:20])}. Give a CSV, JSON or Parquet file, plain or packed."


def first_character(plain: Path, shown: Path) -> str:
    """The first character of the file that is not blank, "" if there is none: "{" and "[" begin JSON."""
    with opened(plain, shown) as content:
        begin = content.read(1 << 12).removeprefix(b"\xef\xbb\xbf").lstrip()
    return begin[:1].decode("latin-1")


def _split_header(
    line: str, delimiter: str | None, wanted: Sequence[str], shown: Path, quotes: bool
) -> tuple[str, list[str]]:
    headers = {}
    for candidate in (delimiter,) if delimiter else DELIMITERS:
        headers[candidate] = _fields(line, candidate, shown) if quotes else line.split(candidate)
        if set(wanted) <= set(headers[candidate]):
            return candidate, headers[candidate]
    if line.lstrip().startswith(("{", "[")):
        raise DataFormatError(
            f"{shown} begins with {quoted(line[:50])}, as JSON does; expected CSV or Parquet. Convert it."
        )
    longest = max(headers.values(), key=len)
    _check_columns(longest, wanted, shown)
    raise AssertionError("a column is missing")


def _fields(line: str, delimiter: str, shown: Path) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error as error:
        raise DataFormatError(f"{shown}, line 1 is no line of CSV ({error}): {quoted(line)}.") from error


def _check_distinct(header: Sequence[str], shown: Path) -> None:
    if pair := same_names(header):
        first, second = (header[place] for place in pair)
        raise DataFormatError(
            f"{shown}: the columns {quoted(first)} and {quoted(second)} have one name; rename one, upper and lower case count "
            "as the same."
        )


def _check_columns(found: Sequence[str], wanted: Sequence[str], shown: Path) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataFormatError(
            f"{shown} has no column {missing[0]!r}; its columns are {listed(found)}. "
            "Rename one, or name another where the command has a flag for it (prepare table: --user-column, --item-column, "
            "--time-column; --items-item-column of the catalogue)."
        )


def column_names(
    engine: Engine,
    source: SourceFiles,
    scratch: Path,
    known: str,
    encoding: Encoding,
    delimiter: str | None,
    quotes: bool,
) -> list[str]:
    """Names of the columns of CSV or Parquet files, one of which must be `known`; of several files those of the first.

    Raises:
        DataFormatError: a file is missing, damaged or empty, or the column is missing.
    """
    if are_parquet(source):
        if source.remote:
            return engine.parquet_columns(source.paths[0])
        return [*_parquet_schema(source.files[0]).names, *source.partitions]
    if source.remote:
        line = engine.first_line(source.paths[0])
        return _split_header(line, delimiter, [known], Path(source.shown), quotes)[1]
    return text_columns(source.files[0], scratch, known, encoding, delimiter, quotes)


def _parquet_schema(file: Path) -> pa.Schema:
    """The columns of a Parquet file.

    Raises:
        DataFormatError: the file is missing, damaged, or not a Parquet file.
    """
    check_exists(file)
    try:
        with file.open("rb") as content:
            return pq.read_schema(content)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file cannot be read at all
        reason = str(error).strip().splitlines()[0]
        raise DataFormatError(
            f"{file} is damaged or not a Parquet file ({reason}); fetch it or write it again, or give a CSV file."
        ) from error


def text_columns(
    file: Path, scratch: Path, known: str | None, encoding: Encoding, delimiter: str | None, quotes: bool
) -> list[str]:
    """Names of the columns of a CSV file; `known`, where given, must be one of them."""
    line = first_line(unpacked(file, scratch), encoding, file)
    return _split_header(line, delimiter, [] if known is None else [known], file, quotes)[1]


def first_fields(file: Path, scratch: Path) -> list[str]:
    """Values of the first line of a comma-separated file."""
    return _fields(first_line(unpacked(file, scratch), "utf-8", file), ",", file)
