"""Tables that callers hold in memory, as Arrow tables: pandas, polars, pyarrow, lists of mappings, mappings of columns."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import narwhals as nw
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from narwhals.exceptions import DuplicateError
from narwhals.typing import IntoDataFrame

from linguarec.errors import DataFormatError
from linguarec.files import AnyPath
from linguarec.values import written_out

TableLike: TypeAlias = IntoDataFrame | Iterable[Mapping[str, Any]] | Mapping[str, Any]

_EXPECTED = (
    "expected a DataFrame of pandas or polars (a lazy frame is collected first), an Arrow table, a list of mappings with one "
    "for each row, or a mapping from column names to lists"
)


def as_arrow(table: TableLike, what: str, ids: Sequence[str] = ()) -> pa.Table:
    """The table with its columns in their order; missing values, NaN among them, are null.

    An index of pandas is not read. Values of several types in one column are written out as text, as in a CSV file.

    Args:
        table: a table of any kind.
        what: what the table is; messages begin with it.
        ids: columns of ids. Where they hold floats that are all whole numbers, as data frames make them of whole numbers when
            one is missing, they become whole numbers again.

    Raises:
        DataFormatError: it is no table, or a column cannot be read.
    """
    columns = {name: _column(values, f"{what}: the column {name!r}") for name, values in _columns(table, what).items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{name!r} has {length:,}" for name, length in lengths.items())
        raise DataFormatError(
            f"{what}: columns have different numbers of values: {counted}. Give each one value a row."
        )
    return pa.table({name: _whole(column) if name in ids else column for name, column in columns.items()})


def as_rows(table: TableLike, what: str, ids: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """The table as one mapping for each row; mappings that are given stay as they are, but for whole numbers as `ids`.

    Raises:
        DataFormatError: as `as_arrow`.
    """
    rows = _mappings(table)
    if rows is None:
        found: list[Mapping[str, Any]] = as_arrow(table, what, ids).to_pylist()
        return found
    for name in ids:
        floats = {place: value for place, row in enumerate(rows) if isinstance(value := row.get(name), float)}
        whole = {place: int(value) for place, value in floats.items() if value.is_integer()}
        if all(place in whole or math.isnan(value) for place, value in floats.items()):
            rows = [{**row, name: whole[place]} if place in whole else row for place, row in enumerate(rows)]
    return rows


@dataclass(frozen=True)
class TableSource:
    """A file (or a glob, a folder, an address), or a table in memory that goes through a file.

    `what`: the rows, a word for messages and for the file's name.
    """

    given: str | Path | pa.Table
    what: str

    @classmethod
    def of(cls, given: AnyPath | TableLike, what: str, ids: Sequence[str]) -> "TableSource":
        """A path, or a table as of `as_arrow`."""
        if isinstance(given, str | Path):
            return cls(given, what)  # a Path would spoil an address
        return cls(as_arrow(given, f"the table of {what}", ids), what)

    def __str__(self) -> str:
        return str(self.given) if isinstance(self.given, str | Path) else f"the table of {self.what}"

    @property
    def name(self) -> str:
        """Name of the file, for a manifest; of an address without its query, which may hold a signature."""
        if not isinstance(self.given, str | Path):
            return "a table in memory"
        address, separator, _ = str(self.given).partition("?")
        return Path(address if separator and "://" in address else self.given).name

    def file(self, scratch: Path) -> str | Path:
        """The file itself, or one in the folder `scratch` that the table is written into."""
        if isinstance(self.given, str | Path):
            return self.given
        file = scratch / f"{self.what}.parquet"
        _write_like_csv(self.given, file)
        return file


@contextmanager
def naming_tables(scratch: Path) -> Iterator[None]:
    """Errors about files that `TableSource.file` wrote into `scratch` name the tables instead."""
    try:
        yield
    except DataFormatError as error:
        named = re.sub(rf"{re.escape(str(scratch))}/(\w+)\.parquet", r"the table of \1", str(error))
        raise DataFormatError(named) from error


def _write_like_csv(table: pa.Table, file: Path) -> None:
    """Write a Parquet file that is read as a CSV file of the table would be: empty text is null, moments are in UTC."""
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = pc.if_else(pc.equal(column, ""), None, column)
        elif pa.types.is_timestamp(field.type) and field.type.tz is not None:
            column = column.cast(pa.timestamp(field.type.unit, "UTC")).cast(pa.timestamp(field.type.unit))
        table = table.set_column(place, field.name, column)
    pq.write_table(table, file)


def _mappings(table: TableLike) -> list[Mapping[str, Any]] | None:
    """The rows of a list of mappings; None: the table is of another kind."""
    if isinstance(table, list | tuple) or (isinstance(table, Iterable) and hasattr(table, "__next__")):
        rows = list(table)
        return rows if all(isinstance(row, Mapping) for row in rows) else None
    return None


def _columns(table: TableLike, what: str) -> dict[str, Any]:
    """The values of each column, as they are in the table."""
    if (rows := _mappings(table)) is not None:
        names = dict.fromkeys(name for row in rows for name in row)
        return _named({name: [row.get(name) for row in rows] for name in names}, what)
    if isinstance(table, Mapping):
        return _named(table, what)
    if isinstance(table, pa.RecordBatch):
        table = pa.table(table)
    try:
        frame = nw.from_native(table, eager_only=True, pass_through=True)
        if not isinstance(frame, nw.DataFrame):
            raise DataFormatError(f"{what}: found {_kind(table)}; {_EXPECTED}.")
        return _named({name: frame.get_column(name).to_native() for name in frame.columns}, what)
    except DuplicateError as error:
        raise DataFormatError(f"{what}: two columns have one name; rename one. ({str(error).split(':')[0]})") from error


def _kind(table: Any) -> str:
    """What something is, for a message."""
    name = f"{type(table).__module__.partition('.')[0]} {type(table).__name__}".removeprefix("builtins ")
    if isinstance(table, list | tuple):
        other = next(row for row in table if not isinstance(row, Mapping))
        return f"a {name} that holds {str(other)[:60]!r}"
    return f"an object of the type {name}"


def _named(columns: Mapping[str, Any], what: str) -> dict[str, Any]:
    strange = [name for name in columns if not isinstance(name, str)]
    if strange:
        raise DataFormatError(f"{what}: a column is named {strange[0]!r}; name columns by text.")
    return dict(columns)


def _column(values: Any, where: str) -> Any:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise DataFormatError(
            f"{where} is {str(values)[:60]!r}, a {type(values).__name__}; expected a list with one value for each row. One row "
            "is a list of one mapping: [{...}]."
        )
    series = nw.from_native(values, series_only=True, pass_through=True)
    if (dimensions := getattr(values, "ndim", 1)) != 1:
        raise DataFormatError(f"{where} is an array with {dimensions} dimensions; expected one.")
    try:
        if isinstance(series, nw.Series):
            found = series.to_arrow()
        else:
            found = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError):  # of several types, or of one that Arrow does not know
        return _as_text(list(values), where)
    kind = found.type
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _as_text(list(values), where)
    if pa.types.is_dictionary(kind):
        found = found.cast(kind.value_type)
    if pa.types.is_floating(found.type):
        found = pc.if_else(pc.is_nan(found), None, found)
    return found


def _as_text(values: list[Any], where: str) -> pa.Array:
    return pa.array([written_out(value, f"{where}, row {row}") for row, value in enumerate(values, 1)], pa.string())


def _whole(column: Any) -> Any:
    """Floats that are all whole numbers as whole numbers; any other column as it is."""
    if not pa.types.is_floating(column.type) or not pc.all(pc.equal(column, pc.floor(column))).as_py():
        return column
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:  # beyond 64 bits
        return column
