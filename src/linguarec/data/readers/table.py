"""A log and a catalogue of one's own, as CSV or Parquet, with the names of their columns given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.types as ir

from linguarec.data.attribute_names import attribute_names
from linguarec.data.engine import Engine
from linguarec.data.preparation import Source
from linguarec.data.readers.files import (
    Encoding,
    TimeUnit,
    check_parsed,
    csv_table,
    parquet_columns,
    parquet_table,
    parsed_time,
    text_columns,
)
from linguarec.errors import DataFormatError

Order = Literal["time", "rank", "file"]
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns. `attributes` None = every column of the items file but the item's, in its order.

    `order`: "time": `time` is a moment; "rank": `time` is a number that only orders a user's rows; "file": by place
    in the file, and `time` is not read.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    catalogue_item: str = "item_id"
    attributes: Sequence[str] | None = None
    order: Order = "time"
    time_unit: TimeUnit = "seconds"


def read_table(
    engine: Engine,
    scratch: Path,
    interactions: Path,
    items: Path | None,
    columns: TableColumns,
    encoding: Encoding = "utf-8",
    delimiter: str | None = None,
    quoted: bool = True,
) -> Source:
    """Read both files. Two rows are the same interaction if user, item and time agree.

    Raises:
        DataFormatError: a column is missing, a time does not parse, or a file is cut short.
    """
    wanted = {"user": columns.user, "item": columns.item}
    if columns.order != "file":
        wanted["moment"] = columns.time
    raw = _open(engine, interactions, scratch, wanted, encoding, delimiter, quoted)
    log = _log(engine, raw, interactions, columns)
    if items is None:
        return Source(log, None, [], has_times=columns.order == "time")
    attributes = columns.attributes
    if attributes is None:
        found = (
            parquet_columns(items)
            if items.suffix in PARQUET
            else text_columns(items, scratch, columns.catalogue_item, encoding, delimiter, quoted)
        )
        attributes = [name for name in found if name != columns.catalogue_item]
    named = attribute_names([name.split(":")[0] for name in attributes], items)  # without RecBole's type
    fields = {"raw_id": columns.catalogue_item, **{f"attribute_{k}": name for k, name in enumerate(attributes)}}
    catalogue = _open(engine, items, scratch, fields, encoding, delimiter, quoted)
    for name, column in fields.items():
        kind = catalogue[name].type()
        if kind.is_nested() and not _is_list_of_values(catalogue[name]):
            raise DataFormatError(
                f"{items}: the column {column!r} holds {kind}; expected text, numbers or lists of them. Write it as text, or "
                "name the columns to read with --attributes."
            )
    stored = engine.store(catalogue.select(**{name: as_string(catalogue[name]) for name in fields}))
    names = {name: f"attribute_{k}" for k, name in enumerate(named)}
    numbered = stored.mutate(position=stored.rowid())
    stored = engine.store(numbered.filter(numbered.raw_id.notnull()).select("raw_id", "position", **names), stored)
    return Source(log, stored, list(names), has_times=columns.order == "time")


def as_string(value: ir.Value) -> ir.StringValue:
    """Any column as strings; lists joined by " > "."""
    if isinstance(value, ir.ArrayValue):
        return value.map(lambda element: element.cast("string")).join(" > ")
    return value.cast("string")


def _is_list_of_values(column: ir.Value) -> bool:
    return isinstance(column, ir.ArrayValue) and not column.type().value_type.is_nested()


def _log(engine: Engine, raw: ir.Table, file: Path, columns: TableColumns) -> ir.Table:
    keys = {"user": as_string(raw.user), "item": as_string(raw.item), "variant": ibis.null("int64")}
    if columns.order == "file":
        # Every row is an interaction of its own: nothing tells a repeated row from a repeated visit.
        return engine.store(raw.select(**keys, time=ibis.null("int64")))
    if isinstance(raw.moment, (ir.TimestampValue, ir.DateValue)):
        text = raw.moment.cast("timestamp").cast("string")
    else:
        text = raw.moment.cast("string")
    time = parsed_time(text, columns.time_unit)
    unparsed = ibis.ifelse(time.isnull(), text.fill_null(""), ibis.null("string"))
    log = engine.store(raw.select(**keys, time=time, unparsed_time=unparsed))
    expected = "a number or a date such as 2024-05-31 or 2024-05-31T12:00:00"
    check_parsed(engine, log, "time", columns.time, file, expected)
    return log


def _open(
    engine: Engine,
    file: Path,
    scratch: Path,
    columns: dict[str, str],
    encoding: Encoding,
    delimiter: str | None,
    quoted: bool,
) -> ir.Table:
    if file.suffix in PARQUET:
        return parquet_table(engine, file, columns)
    return csv_table(engine, file, scratch, columns, encoding, delimiter=delimiter, quoted=quoted)
