"""A user's own log and catalogue, as CSV or Parquet, with the names of their columns."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ibis
import ibis.expr.types as ir

from linguarec.data.attribute_names import attribute_names
from linguarec.data.engine import Engine
from linguarec.data.item_ids import id_string, same_numbers
from linguarec.data.preparation import Source
from linguarec.data.readers import functions
from linguarec.data.readers.attributes import Attribute, check_parts, find_attributes, warn_of_empty
from linguarec.data.readers.files import Encoding, are_parquet, column_names, csv_table, parquet_table
from linguarec.data.readers.json_files import SAMPLE
from linguarec.data.readers.times import (
    TimeUnit,
    check_format,
    check_moments,
    check_parsed,
    formatted_time,
    no_hint,
    parsed_time,
    unit_hint,
)
from linguarec.data.source_files import SourceFiles
from linguarec.errors import DataFormatError, SettingsError

MOST_ATTRIBUTES = 1000  # that nobody named; each is an expression of the query
Order = Literal["time", "rank", "file"]
EXPECTED_TIME = "a number or a date such as 2024-05-31 or 2024-05-31T12:00:00"


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns, and how they are read.

    `attributes`: None = every column of the items file but the item's, in its order. `order`: "time": `time` is a moment;
    "rank": `time` is a number that only orders a user's rows; "file": the order of the file, `time` is not read.
    `time_format`: strptime format of the moments; None = numbers in `time_unit`, or ISO dates.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    catalogue_item: str = "item_id"
    attributes: Sequence[str] | None = None
    order: Order = "time"
    time_unit: TimeUnit = "seconds"
    time_format: str | None = None


def read_table(
    engine: Engine,
    scratch: Path,
    interactions: str | Path | SourceFiles,
    items: str | Path | SourceFiles | None,
    columns: TableColumns,
    encoding: Encoding = "utf-8",
    delimiter: str | None = None,
    quotes: bool = True,
) -> Source:
    """Read both files. Two rows are the same interaction if user, item and time agree.

    Raises:
        DataFormatError: a column is missing, a time does not parse or cannot be right, or a file is cut short.
        SettingsError: an attribute is not known, or `time_format` is no format or does not apply.
    """
    interactions = SourceFiles.of(interactions)
    wanted = {"user": columns.user, "item": columns.item}
    if columns.order != "file":
        wanted["moment"] = columns.time
    raw = _open(engine, interactions, scratch, wanted, encoding, delimiter, quotes)
    log, counted = _log(engine, raw, interactions.shown, columns)
    has_times = columns.order == "time"
    if items is None:
        return Source(log, None, [], has_times, counted=counted)
    items = SourceFiles.of(items)
    found = column_names(engine, items, scratch, columns.catalogue_item, encoding, delimiter, quotes)
    attributes = _attributes(columns, found, Path(items.shown))
    keys = {attribute.key: f"column_{k}" for k, attribute in enumerate(attributes)}
    fields = {"raw_id": columns.catalogue_item, **{column: key for key, column in keys.items()}}
    opened = _open(engine, items, scratch, fields, encoding, delimiter, quotes)
    check_parts(attributes, _samples(engine, opened, attributes, keys), Path(items.shown))
    values = {f"attribute_{k}": _value(opened[keys[a.key]], a.part) for k, a in enumerate(attributes)}
    stored = engine.store_rows(opened.select(raw_id=id_string(opened.raw_id), **values))
    names = {attribute.name: f"attribute_{k}" for k, attribute in enumerate(attributes)}
    numbered = engine.positioned(stored)
    counted["catalogue_rows_without_item"] = engine.value(numbered.raw_id.isnull().sum().fill_null(0))
    catalogue = engine.store(numbered.filter(numbered.raw_id.notnull()).select("raw_id", "position", **names), stored)
    log, catalogue, changed = same_numbers(engine, log, catalogue)
    if changed:
        counted["item_ids_read_as_integers"] = changed
    warn_of_empty(engine, catalogue, attributes, items.shown)
    of_text = [a for a in attributes if a.part is None and isinstance(opened[keys[a.key]], ir.StringValue)]
    texts = {attribute.name for attribute in of_text} if are_parquet(items) else set()  # in CSV everything is text
    return Source(log, catalogue, list(names), has_times, counted=counted, texts=frozenset(texts))


def _attributes(columns: TableColumns, found: Sequence[str], items: Path) -> list[Attribute]:
    if columns.attributes is not None:
        return find_attributes(columns.attributes, {}, found, items)
    every = [name for name in found if name != columns.catalogue_item]
    if len(every) > MOST_ATTRIBUTES:
        raise DataFormatError(
            f"{items} has {len(every):,} columns beside {columns.catalogue_item!r}, and an item text is made of at most "
            f"{MOST_ATTRIBUTES:,}; name those that matter with --attributes."
        )
    names = attribute_names([name.split(":")[0] for name in every], items)  # without RecBole's type
    return [Attribute(name, column, None) for name, column in zip(names, every, strict=True)]


def _value(column: ir.Value, part: str | None) -> ir.StringValue:
    """A column, or one key of its dictionaries, as `written_out` writes it."""
    if part is not None:
        return functions.written_value(_json_text(column), part)
    if not column.type().is_nested():
        return column.cast("string")
    if isinstance(column, ir.ArrayValue) and not column.type().value_type.is_nested():
        return column.map(lambda element: element.cast("string")).join(" > ")
    return functions.written_value(_json_text(column))


def _json_text(column: ir.Value) -> ir.StringValue:
    return column.cast("json").cast("string")


def _samples(
    engine: Engine, opened: ir.Table, attributes: Sequence[Attribute], keys: dict[str, str]
) -> list[dict[str, Any]]:
    """Values of the columns of which a key is wanted, from the first rows; columns of plain values are left out."""
    asked = {attribute.key for attribute in attributes if attribute.part is not None}
    nested = {key: keys[key] for key in asked if opened[keys[key]].type().is_nested()}
    if not nested:
        return []
    first = opened.select(**{key: _json_text(opened[column]) for key, column in nested.items()})
    return [
        {key: json.loads(text) for key, text in row.items() if text is not None}
        for row in engine.first_rows(first, SAMPLE)
    ]


def _log(engine: Engine, raw: ir.Table, file: str, columns: TableColumns) -> tuple[ir.Table, dict[str, int]]:
    """The stored log, and counts of moments that cannot be right."""
    keys = {"user": id_string(raw.user), "item": id_string(raw.item), "variant": ibis.null("int64")}
    if columns.order == "file":
        # Every row is an interaction: a repeated row cannot be told from a repeated visit.
        return engine.store_rows(raw.select(**keys, time=ibis.null("int64"))), {}
    holds_moments = isinstance(raw.moment, (ir.TimestampValue, ir.DateValue))
    if columns.time_format is not None:
        check_format(columns.time_format)
        if holds_moments:
            raise SettingsError(
                [
                    f"--time-format is not read: the column {columns.time!r} of {file} holds times, not text; leave it out."
                ]
            )
    text = raw.moment.cast("timestamp").cast("string") if holds_moments else raw.moment.cast("string")
    if columns.time_format is None:
        time, expected = parsed_time(text, columns.time_unit), EXPECTED_TIME
        expected += "; describe another form with --time-format, such as '%d/%m/%Y %H:%M'"
    else:
        time, expected = formatted_time(text, columns.time_format), f"a time in the format {columns.time_format!r}"
    unparsed = ibis.ifelse(time.isnull(), text.fill_null(""), ibis.null("string"))
    log = engine.store_rows(raw.select(**keys, time=time, unparsed_time=unparsed))
    hint = partial(unit_hint, unit=columns.time_unit) if columns.time_format is None else no_hint
    check_parsed(engine, log, "time", columns.time, file, expected, hint)
    if columns.order == "rank":
        return log, {}
    return log, check_moments(engine, log, file, columns.time_unit)


def _open(
    engine: Engine,
    source: SourceFiles,
    scratch: Path,
    columns: dict[str, str],
    encoding: Encoding,
    delimiter: str | None,
    quotes: bool,
) -> ir.Table:
    if are_parquet(source):
        return parquet_table(engine, source, columns)
    return csv_table(engine, source, scratch, columns, encoding, delimiter=delimiter, quotes=quotes)
