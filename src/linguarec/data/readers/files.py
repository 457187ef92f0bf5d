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
from linguarec.data.readers.packing import check_exists, duckdb_compression, opened, scratch_copy, unpacked
from linguarec.errors import DataFormatError, listed, quoted

Encoding = Literal["utf-8", "latin-1"]
DELIMITERS = (",", "\t", ";", "|")
LONGEST_HEADER = 1 << 20  # bytes
_CONTROL_BYTES = set(range(32)) - set(b"\t\n\v\f\r\x1a\x1b")  # which no text holds
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def csv_table(
    engine: Engine,
    file: Path,
    scratch: Path,
    columns: Mapping[str, str],
    encoding: Encoding = "utf-8",
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
    quotes: bool = True,
) -> ir.Table:
    """The CSV file as a view; `columns` maps the wanted names to the names in the file; every value is a string.

    Empty values are NULL. `names`: the columns of a file without header line. Without `delimiter` the first of , tab
    ; | is taken whose header holds all the columns. Packed files are read as they are. In a file that mixes line ends,
    CR LF becomes LF, also inside quotes.

    Raises:
        DataFormatError: the file is missing, cut short or no text, or a column is missing.
    """
    plain = _with_one_line_end(unpacked(file, scratch), scratch, file)
    header = list(names) if names is not None else None
    if header is None:
        line = first_line(plain, encoding, file)
        delimiter, header = _split_header(line, delimiter, list(columns.values()), file, quotes)
    elif delimiter is None:
        delimiter = ","
    _check_distinct(header, file)
    table = engine.connection.read_csv(
        str(plain),
        columns=dict.fromkeys(header, "VARCHAR"),
        auto_detect=False,
        header=names is None,
        delim=delimiter,
        quote='"' if quotes else "",
        escape='"' if quotes else "",
        encoding=encoding,
        compression=duckdb_compression(plain),
        strict_mode=True,
    )
    return table.select(**columns)


def parquet_table(engine: Engine, file: Path, columns: Mapping[str, str]) -> ir.Table:
    """The Parquet file as a view; `columns` maps the wanted names to the names in the file; values keep their types.

    Raises:
        DataFormatError: the file is missing, or a column is missing.
    """
    found = parquet_columns(file)
    _check_columns(found, list(columns.values()), file)
    # Not connection.read_parquet(): it makes an expression for every column of the file, and there may be 200,000.
    chosen = ", ".join(f"{_sql_name(name)} AS {_sql_name(key)}" for key, name in columns.items())
    return engine.view(f"SELECT {chosen} FROM read_parquet({_sql_text(str(file))})")


def _sql_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
            "Rename one, or name another where the command has a flag for it."
        )


def parquet_columns(file: Path) -> list[str]:
    """Names of the columns of a Parquet file.

    Raises:
        DataFormatError: the file is missing, damaged, or not a Parquet file.
    """
    check_exists(file)
    try:
        with file.open("rb") as content:
            names: list[str] = pq.read_schema(content).names
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file cannot be read at all
        reason = str(error).strip().splitlines()[0]
        raise DataFormatError(
            f"{file} is damaged or not a Parquet file ({reason}); fetch it or write it again, or give a CSV file."
        ) from error
    return names


def text_columns(
    file: Path, scratch: Path, known: str | None, encoding: Encoding, delimiter: str | None, quotes: bool
) -> list[str]:
    """Names of the columns of a CSV file; `known`, where given, must be one of them."""
    line = first_line(unpacked(file, scratch), encoding, file)
    return _split_header(line, delimiter, [] if known is None else [known], file, quotes)[1]


def first_fields(file: Path, scratch: Path) -> list[str]:
    """Values of the first line of a comma-separated file."""
    return _fields(first_line(unpacked(file, scratch), "utf-8", file), ",", file)
