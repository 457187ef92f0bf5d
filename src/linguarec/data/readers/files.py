"""Opens source files as tables of strings, whatever they are packed in; parses times with the row that does not parse."""

import csv
import gzip
import io
import json
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, cast

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from linguarec.data.attribute_names import same_names
from linguarec.data.engine import Engine
from linguarec.data.readers import functions
from linguarec.errors import DataFormatError

Encoding = Literal["utf-8", "latin-1"]
TimeUnit = Literal["seconds", "milliseconds", "microseconds"]
DELIMITERS = (",", "\t", ";", "|")
_LARGEST = 9.2e18  # of 64-bit whole numbers, nearly
_MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}


def csv_table(
    engine: Engine,
    file: Path,
    scratch: Path,
    columns: Mapping[str, str],
    encoding: Encoding = "utf-8",
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
    quoted: bool = True,
) -> ir.Table:
    """The CSV file as a view; `columns` maps the wanted names to the names in the file; every value is a string.

    Empty values are NULL. `names`: the columns of a file without header line. Without `delimiter` the first of , tab
    ; | is taken whose header holds all the columns. Packed files (.gz, .xz, .zip) are read as they are; in a file that
    mixes line ends, CR LF becomes LF, also inside of quotes.

    Raises:
        DataFormatError: the file is missing or cut short, or a column is missing.
    """
    plain = _with_one_line_end(unpacked(file, scratch), scratch, file)
    header = list(names) if names is not None else None
    if header is None:
        first_line = _first_line(plain, encoding, file)
        delimiter, header = _split_header(first_line, delimiter, list(columns.values()), file, quoted)
    elif delimiter is None:
        delimiter = ","
    _check_distinct(header, file)
    table = engine.connection.read_csv(
        str(plain),
        columns=dict.fromkeys(header, "VARCHAR"),
        auto_detect=False,
        header=names is None,
        delim=delimiter,
        quote='"' if quoted else "",
        escape='"' if quoted else "",
        encoding=encoding,
        strict_mode=True,
    )
    return table.select(**columns)


def json_table(
    engine: Engine, file: Path, scratch: Path, fields: Mapping[str, str], required: Sequence[str] = ()
) -> ir.Table:
    """The JSON-lines file as a view; `fields` maps the wanted names to the keys in the file; every value is JSON or
    NULL.

    Raises:
        DataFormatError: the file is missing or cut short, or its first line lacks one of the `required` keys.
    """
    plain = unpacked(file, scratch)
    try:
        first = json.loads(_first_line(plain, "utf-8", file))
    except ValueError as error:
        raise DataFormatError(f"{file}, line 1 is not JSON ({error}); expected one JSON object a line.") from error
    missing = [fields[name] for name in required if fields[name] not in first]
    if missing:
        raise DataFormatError(f"{file}, line 1 lacks the key {missing[0]!r}; it has {', '.join(map(repr, first))}.")
    table = engine.connection.read_json(
        str(plain),
        columns=dict.fromkeys(dict.fromkeys(fields.values()), "JSON"),
        format="newline_delimited",
        maximum_object_size=1 << 27,
    )
    return table.select(**fields)


def parquet_table(engine: Engine, file: Path, columns: Mapping[str, str]) -> ir.Table:
    """The Parquet file as a view; `columns` maps the wanted names to the names in the file; values keep their types.

    Raises:
        DataFormatError: the file is missing, or a column is missing.
    """
    _check_columns(parquet_columns(file), list(columns.values()), file)
    table = engine.connection.read_parquet(str(file))
    return table.select(**columns)


def json_string(value: ir.Value) -> ir.StringValue:
    """A JSON value as a string: strings bare, lists joined by " > ", null as NULL, anything else as it stands."""
    text = value.cast("string")
    return ibis.cases(
        (text.startswith('"'), functions.json_extract_string(value, "$")),
        (text.startswith("["), functions.json_extract_strings(value, "$[*]").join(" > ")),
        (text == "null", ibis.null("string")),
        else_=text,
    )


def parsed_time(raw: ir.StringValue, unit: TimeUnit, formats: Sequence[str] = ()) -> ir.IntegerValue:
    """Microseconds since 1970 from a number in `unit`, an ISO date or time, or one of `formats`; NULL where none fits."""
    factor = _MICROSECONDS[unit]
    number = raw.try_cast("float64")
    fits = number.abs() < _LARGEST / factor  # of NaN, too, this is false
    # Of anything but digits DuckDB would make a whole number of seconds, '1.6' or '16e-1'.
    whole = ibis.ifelse(fits & raw.re_search(r"^\s*[+-]?\d+\s*$"), raw.try_cast("int64") * factor, ibis.null("int64"))
    candidates = [whole, ibis.ifelse(fits, (number * factor).round(), ibis.null("int64"))]
    candidates += [functions.epoch_us(functions.try_strptime(raw, form)) for form in formats]
    candidates.append(functions.epoch_us(raw.try_cast("timestamp")))
    return ibis.coalesce(*candidates)


def check_parsed(engine: Engine, table: ir.Table, name: str, what: str, file: Path, expected: str) -> None:
    """Stop at the first row of the stored `table` whose column `unparsed_<name>` holds a value that did not parse.

    Raises:
        DataFormatError: there is such a row; the message has its number in the file.
    """
    bad = table.mutate(row=table.rowid()).filter(table[f"unparsed_{name}"].notnull())
    found = engine.rows(bad.order_by("row").limit(1).select("row", value=f"unparsed_{name}"))
    if found:
        more = engine.value(bad.count()) - 1
        others = f" ({more:,} more rows have such values)" if more else ""
        raise DataFormatError(
            f"{file}, data row {found[0]['row'] + 1}: {what} is {found[0]['value']!r}, expected {expected}{others}."
        )


def unpacked(file: Path, scratch: Path) -> Path:
    """The file itself where DuckDB can read it (plain, .gz), else its content unpacked into `scratch` (.xz, .zip).

    Raises:
        DataFormatError: the file is missing or cut short, or the archive does not hold exactly one file.
    """
    _check_exists(file)
    if file.suffix not in (".xz", ".zip"):
        return file
    target = scratch / file.stem
    try:
        with _open_packed(file) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
    except (EOFError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
        raise DataFormatError(f"{file} is cut short or damaged ({error}); fetch it again.") from error
    return target


@contextmanager
def opened(file: Path, shown: Path) -> Iterator[IO[bytes]]:
    """The plain or .gz file, open for reading; messages name it as `shown`.

    Raises:
        DataFormatError: what is read in the block is cut short or damaged.
    """
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as content:
            yield cast(IO[bytes], content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFormatError(f"{shown} is cut short, damaged or not a gzip file ({error}); fetch it again.") from error


def _with_one_line_end(plain: Path, scratch: Path, shown: Path) -> Path:
    """The file itself where all its lines end alike, which DuckDB demands; else a copy in `scratch` with LF alone."""
    lines = windows_lines = 0
    with opened(plain, shown) as content:
        for piece in _pieces(content):
            lines += piece.count(b"\n")
            windows_lines += piece.count(b"\r\n")
            if 0 < windows_lines < lines:
                break
        else:
            return plain
    copy = scratch / "line_ends"
    with opened(plain, shown) as content, copy.open("wb") as target:
        target.writelines(piece.replace(b"\r\n", b"\n") for piece in _pieces(content))
    return copy.replace(scratch / plain.name.removesuffix(".gz"))


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    """The content in pieces that never cut a CR LF apart."""
    while piece := content.read(1 << 20):
        while piece.endswith(b"\r") and (more := content.read(1)):
            piece += more
        yield piece


@contextmanager
def _open_packed(file: Path) -> Iterator[IO[bytes]]:
    if file.suffix == ".xz":
        with lzma.open(file) as packed:
            yield packed
        return
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.namelist() if not member.endswith("/")]
        if len(members) != 1:
            raise DataFormatError(
                f"{file} holds {len(members)} files, expected one; unpack it and give the right file."
            )
        with archive.open(members[0]) as member:
            yield member


def _first_line(plain: Path, encoding: str, shown: Path) -> str:
    try:
        with opened(plain, shown) as file:
            line: str = io.TextIOWrapper(file, encoding="utf-8-sig" if encoding == "utf-8" else encoding).readline()
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{shown} is not UTF-8 ({error}); pass --encoding latin-1 or convert it.") from error
    if not line.strip():
        raise DataFormatError(f"{shown} is empty.")
    return line.rstrip("\r\n")


def _split_header(
    line: str, delimiter: str | None, wanted: Sequence[str], shown: Path, quoted: bool
) -> tuple[str, list[str]]:
    headers = {}
    for candidate in (delimiter,) if delimiter else DELIMITERS:
        headers[candidate] = next(csv.reader([line], delimiter=candidate)) if quoted else line.split(candidate)
        if set(wanted) <= set(headers[candidate]):
            return candidate, headers[candidate]
    longest = max(headers.values(), key=len)
    _check_columns(longest, wanted, shown)
    raise AssertionError("a column is missing")


def _check_distinct(header: Sequence[str], shown: Path) -> None:
    if pair := same_names(header):
        first, second = (header[place] for place in pair)
        raise DataFormatError(
            f"{shown}: the columns {first!r} and {second!r} have one name; rename one, upper and lower case count as the same."
        )


def _check_columns(found: Sequence[str], wanted: Sequence[str], shown: Path) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataFormatError(
            f"{shown} has no column {missing[0]!r}; its columns are {', '.join(map(repr, found))}. "
            "Rename one, or name another where the command has a flag for it."
        )


def _check_exists(file: Path) -> None:
    if not file.is_file():
        raise DataFormatError(f"{file} does not exist or is not a file; check the path.")


def parquet_columns(file: Path) -> list[str]:
    """Names of the columns of a Parquet file.

    Raises:
        DataFormatError: the file is missing, damaged, or not a Parquet file.
    """
    _check_exists(file)
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
    file: Path, scratch: Path, known: str | None, encoding: Encoding, delimiter: str | None, quoted: bool
) -> list[str]:
    """Names of the columns of a CSV file; `known`, where given, must be one of them."""
    first_line = _first_line(unpacked(file, scratch), encoding, file)
    return _split_header(first_line, delimiter, [] if known is None else [known], file, quoted)[1]


def first_fields(file: Path, scratch: Path) -> list[str]:
    """Values of the first line of a comma-separated file."""
    return next(csv.reader([_first_line(unpacked(file, scratch), "utf-8", file)]))
