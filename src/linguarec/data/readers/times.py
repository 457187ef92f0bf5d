"""Parses the moments of a log, names the row that does not parse, and tells moments that cannot be right."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import duckdb
import ibis
import ibis.expr.types as ir

from linguarec.data.engine import Engine
from linguarec.data.moments import moment_text
from linguarec.data.readers import functions
from linguarec.errors import DataFormatError, SettingsError, quoted

log = logging.getLogger(__name__)

TimeUnit = Literal["seconds", "milliseconds", "microseconds"]
_MICROSECONDS: dict[TimeUnit, int] = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
_LARGEST = 9.2e18  # nearly the largest 64-bit integer
_RANKS = (
    "If the numbers only order a user's rows, they are ranks and no times: prepare table --order rank reads them so"
)
# How to read numbers in another unit, as a message says it.
UNIT_FLAGS: dict[TimeUnit, str] = {unit: f"pass --time-unit {unit}" for unit in _MICROSECONDS}


def parsed_time(raw: ir.StringValue, unit: TimeUnit, formats: Sequence[str] = ()) -> ir.IntegerValue:
    """Microseconds since 1970 from a number in `unit`, an ISO date or time, or one of `formats`; NULL where none fits."""
    factor = _MICROSECONDS[unit]
    number = raw.try_cast("float64")
    fits = number.abs() < _LARGEST / factor  # false for NaN, too
    # DuckDB casts "1.6" and "16e-1" to whole numbers: only digits may be cast.
    whole = ibis.ifelse(fits & raw.re_search(r"^\s*[+-]?\d+\s*$"), raw.try_cast("int64") * factor, ibis.null("int64"))
    candidates = [whole, ibis.ifelse(fits, (number * factor).round(), ibis.null("int64"))]
    candidates += [formatted_time(raw, form) for form in formats]
    candidates.append(functions.epoch_us(raw.try_cast("timestamp")))
    return ibis.coalesce(*candidates)


def formatted_time(raw: ir.StringValue, form: str) -> ir.IntegerValue:
    """Microseconds since 1970 from a date or time in the strptime format `form`; NULL where it does not fit."""
    return functions.epoch_us(functions.try_strptime(raw.strip(), form))


def check_format(form: str) -> None:
    """Refuse a strptime format that DuckDB does not know, or that names no part of a date.

    Raises:
        SettingsError: the format is refused.
    """
    problem = "it names no part of a date" if "%" not in form else ""
    try:
        with duckdb.connect() as connection:
            connection.execute("SELECT epoch_us(try_strptime('', ?))", [form]).fetchall()
    except duckdb.Error as error:
        problem = str(error).strip().splitlines()[0].partition(": ")[2]
    if problem:
        raise SettingsError(
            [f"--time-format is {form!r}: {problem}. Use the codes of Python's strptime, as in '%d/%m/%Y %H:%M'."]
        )


def no_hint(value: str) -> str:
    """No hint on a value that did not parse."""
    return ""


def unit_hint(value: str, unit: TimeUnit, units: Mapping[TimeUnit, str] = UNIT_FLAGS) -> str:
    """A hint on a number that is too large for a moment in `unit`: the unit in which it would be plausible.

    >>> unit_hint("1500432000000000", "seconds")
    ' In microseconds it would be plausible: pass --time-unit microseconds.'
    """
    first, last = _plausible()
    try:
        number = float(value)
    except ValueError:
        return ""
    for other, flag in units.items():
        if other != unit and first <= number * _MICROSECONDS[other] < last:
            return f" In {other} it would be plausible: {flag}."
    return ""


def check_parsed(
    engine: Engine,
    table: ir.Table,
    name: str,
    what: str,
    file: Path | str,
    expected: str,
    hint: Callable[[str], str] = no_hint,
) -> None:
    """Stop at the first row of the stored `table` whose column `unparsed_<name>` holds a value that did not parse.

    Args:
        engine: holds the table.
        table: the rows, in the order of the file.
        name: of the column.
        what: the value, for the message.
        file: the source, for the message.
        expected: for the message.
        hint: what the message adds on a value.

    Raises:
        DataFormatError: there is such a row; the message has its number in the file.
    """
    bad = engine.positioned(table)
    bad = bad.filter(bad[f"unparsed_{name}"].notnull())
    found = engine.rows(bad.order_by("position").limit(1).select("position", value=f"unparsed_{name}"))
    if found:
        more = engine.value(bad.count()) - 1
        others = f" ({more:,} more rows have such values)" if more else ""
        row, value = found[0]["position"] + 1, found[0]["value"]
        mend = hint(value) if value else " Fill it in, or take the rows without it out of the file."
        raise DataFormatError(f"{file}, data row {row}: {what} is {quoted(value)}, expected {expected}{others}.{mend}")


def check_moments(
    engine: Engine, table: ir.Table, file: Path | str, unit: TimeUnit, units: Mapping[TimeUnit, str] = UNIT_FLAGS
) -> dict[str, int]:
    """Tell moments that cannot be right: those before 1971 and those after the next year.

    Numbers that only order a user's rows (0, 1, 2, ...) lie before 1971. They are warned of and never refused: their order is
    right. Numbers in a finer unit than `unit` lie in the far future. They are refused if that other unit would make most of
    them plausible, and warned of otherwise: the dates of some data are shifted on purpose.

    Args:
        engine: holds the table.
        table: the stored log, with `time` in microseconds since 1970.
        file: the source, for messages.
        unit: in which numbers were read.
        units: how to have them read in another unit.

    Returns:
        How many moments lie before 1971 and after the next year, by their names in the report.

    Raises:
        DataFormatError: most moments lie after the next year, and would be plausible in another unit.
    """
    first, last = _plausible()
    time = table.time
    number, early, late = _counts(engine, table, time < first, time >= last)
    counts = {"times_before_1971": early, "times_after_next_year": late}
    if not early and not late:
        return counts
    mend = ""
    if 2 * max(early, late) > number:
        for other, flag in units.items():
            if other == unit:
                continue
            ratio = _MICROSECONDS[unit] / _MICROSECONDS[other]  # what the same numbers mean in the other unit
            plausible = _counts(engine, table, (time / ratio >= first) & (time / ratio < last))[1]
            if 2 * plausible > number:
                mend = f"In {other} they would be plausible: {flag}"
    if late:
        found = _found(engine, table, time >= last, late, number, "after the next year")
        if mend and 2 * late > number:
            raise DataFormatError(f"{file}: {found} {mend}.")
        log.warning("%s: %s They stay as they are; check the time column.", file, found)
    if early:
        found = _found(engine, table, time < first, early, number, "before 1971")
        log.warning("%s: %s %s.", file, found, mend or _RANKS)
    return counts


def _plausible() -> tuple[int, int]:
    """Microseconds since 1970 of the first plausible moment and of the first one after the plausible ones."""
    return _year_begins(1971), _year_begins(datetime.now(UTC).year + 2)


def _year_begins(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


def _counts(engine: Engine, table: ir.Table, *conditions: ir.BooleanValue) -> list[int]:
    """The number of rows, and of those that meet each condition."""
    sums = {f"count_{k}": condition.cast("int64").sum().fill_null(0) for k, condition in enumerate(conditions)}
    return [int(count) for count in engine.rows(table.agg(rows=table.count(), **sums))[0].values()]


def _found(engine: Engine, table: ir.Table, condition: ir.BooleanValue, count: int, number: int, where: str) -> str:
    rows = engine.positioned(table).filter(condition)
    first = engine.rows(rows.order_by("position").limit(1).select("position", "time"))[0]
    moment = moment_text(first["time"] // 1_000_000)
    return f"{count:,} of {number:,} times lie {where}, first that of data row {first['position'] + 1:,} ({moment})."
