"""Item ids of a log and of its catalogue that do not match: read alike where that is safe, else the likely cause is named."""

from collections.abc import Callable

import ibis.expr.types as ir

from linguarec.data.engine import Engine
from linguarec.errors import quoted
from linguarec.values import LARGEST_WHOLE

# A column of whole numbers with a missing value is written so: 1.0, 2.0, ...
WHOLE_FLOAT = r"^-?\d+\.0$"

Normalise = Callable[[ir.StringValue], ir.StringValue]


def id_string(column: ir.Value) -> ir.StringValue:
    """A column of ids as strings; whole numbers of a column of floats are written as integers, NaN is NULL."""
    if not isinstance(column, ir.FloatingValue):
        return column.cast("string")
    whole = (column % 1 == 0) & (column.abs() < LARGEST_WHOLE)  # false for NaN
    # Not isnan(): DuckDB 2.0 trusts the statistics of a Parquet file, which leave NaN out, and answers false.
    return whole.ifelse(column.try_cast("int64").cast("string"), column.cast("string").nullif("nan"))


def same_numbers(engine: Engine, log: ir.Table, catalogue: ir.Table) -> tuple[ir.Table, ir.Table, int]:
    """Write the items of both stored tables as integers if all of one and none of the other are floats such as 1.0.

    Then no item of the log is in the catalogue as it is, and one of the files was written from a column of floats. If both
    are floats, they match as they are.

    Returns:
        The log, the catalogue, and the number of distinct ids that were changed.
    """
    of_log, of_catalogue = (_share_of_floats(engine, column) for column in (log.item, catalogue.raw_id))
    if (of_log, of_catalogue) == ("all", "none"):
        changed = engine.value(log.item.nunique())
        return engine.store(log.mutate(item=_without_point_zero(log.item)), log), catalogue, changed
    if (of_log, of_catalogue) == ("none", "all"):
        changed = engine.value(catalogue.raw_id.nunique())
        return log, engine.store(catalogue.mutate(raw_id=_without_point_zero(catalogue.raw_id)), catalogue), changed
    return log, catalogue, 0


def as_known(
    engine: Engine, log: ir.Table, catalogue: ir.Table | None, known: ir.Table
) -> tuple[ir.Table, ir.Table | None, int]:
    """Write the items of both stored tables as integers if all of the log and none of the `known` are floats such as 1.0.

    Args:
        engine: holds the tables.
        log: with `item`.
        catalogue: with `raw_id`, if there is one.
        known: `raw_id` of the items that were there before.

    Returns:
        The log, the catalogue, and the number of distinct ids of the log that were changed.
    """
    if _share_of_floats(engine, log.item) != "all" or _share_of_floats(engine, known.raw_id) != "none":
        return log, catalogue, 0
    changed = engine.value(log.item.nunique())
    if catalogue is not None:
        catalogue = engine.store(catalogue.mutate(raw_id=_without_point_zero(catalogue.raw_id)), catalogue)
    return engine.store(log.mutate(item=_without_point_zero(log.item)), log), catalogue, changed


def why_no_item_matches(engine: Engine, log: ir.Table, items: ir.Table, catalogue: ir.Table) -> str:
    """A sentence on why no item of a log is in its catalogue.

    Args:
        engine: holds the tables.
        log: with `user`.
        items: `raw_id` of the items of the log.
        catalogue: with `raw_id`.
    """
    causes: list[tuple[Normalise, str]] = [
        (_without_point_zero, "one of the files writes whole numbers as 1.0; write them as integers there"),
        (
            lambda ids: ids.re_replace("^0+", ""),
            "one of the files lacks leading zeros; write the ids as text there",
        ),
        (lambda ids: ids.strip().lower(), "they differ in blanks or in upper and lower case; write them alike"),
    ]
    number = engine.value(items.count())
    for normalise, cause in causes:
        ours, theirs = (table.select(raw_id=normalise(table.raw_id)).distinct() for table in (items, catalogue))
        if matching := engine.value(ours.semi_join(theirs, "raw_id").count()):
            return f"{matching:,} of the {number:,} would match, but {cause}."
    if engine.value(log.semi_join(catalogue, log.user == catalogue.raw_id).count()):
        return "Users of the log are in the catalogue: the user and item columns are swapped."
    return "Check that both files name items in the same way and that the user and item columns are not swapped."


def example_id(engine: Engine, table: ir.Table) -> str:
    """An id of the table, as a message quotes it."""
    return quoted(engine.value(table.raw_id.min()))


def _without_point_zero(ids: ir.StringValue) -> ir.StringValue:
    # No group in a replacement: Java, in Spark, writes it in another way than DuckDB.
    return ids.re_search(WHOLE_FLOAT).ifelse(ids.re_replace(r"\.0$", ""), ids)


def _share_of_floats(engine: Engine, ids: ir.StringColumn) -> str:
    is_float = ids.re_search(WHOLE_FLOAT)
    if not engine.value(is_float.any().fill_null(False)):
        return "none"
    return "all" if engine.value(is_float.all().fill_null(False)) else "some"
