"""Histories and lists of item ids as callers give them: lists, NumPy arrays, Series, Arrow arrays, iterators."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from linguarec.errors import SettingsError, quoted

_QUOTED_PART = re.compile(r'\s*"((?:[^"]|"")*)"\s*(,|\Z)')
_BARE_PART = re.compile(r"([^,]*)(,|\Z)")


def as_histories(given: Any, what: str, expected: str) -> tuple[list[Any], bool]:
    """The histories in a list, and whether `given` is a single history: a list of ids.

    >>> as_histories(["a", "b"], "histories", "a history"), as_histories([["a", "b"], ["c"]], "histories", "a history")
    (([['a', 'b']], True), ([['a', 'b'], ['c']], False))
    >>> as_histories([], "histories", "a history")
    ([], False)

    Args:
        given: ids, or lists of ids.
        what: the argument's name; messages begin with it.
        expected: what it should be.

    Raises:
        SettingsError: it is no list, or it holds ids and lists of ids side by side.
    """
    values = _values(given, what, expected)
    lists = [isinstance(value, Iterable) and not isinstance(value, str | bytes) for value in values]
    if values and not any(lists):
        return [values], True
    if not all(lists):
        place = lists.index(not lists[0])
        raise SettingsError(
            [
                f"{what}: number 1 is {_shown(values[0])}, number {place + 1} is {_shown(values[place])}; expected {expected}, "
                "not ids and lists of ids side by side"
            ]
        )
    return values, False


def ids_of(given: Any, what: str) -> list[str]:
    """The ids of a list as text; whole numbers become their digits, also those that a data frame holds as floats.

    >>> ids_of(np.array([7, 12]), "history 1"), ids_of(["a", 3.0], "history 1")
    (['7', '12'], ['a', '3'])

    Raises:
        SettingsError: it is no list, or an id is neither text nor a whole number.
    """
    ids = _values(given, what, "a list of item ids")
    for place, raw_id in enumerate(ids):
        is_whole = isinstance(raw_id, int | np.integer) and not isinstance(raw_id, bool)
        is_whole |= isinstance(raw_id, float | np.floating) and float(raw_id).is_integer()
        if not is_whole and not isinstance(raw_id, str):
            raise SettingsError([f"{what} holds {_shown(raw_id)}; item ids are text, or whole numbers"])
        ids[place] = str(int(raw_id) if is_whole else raw_id)
    return ids


def split_by_commas(word: str) -> list[str]:
    """The parts of a list as in a row of CSV; spaces around a part are dropped, those within quotes are kept.

    >>> split_by_commas('A, B,"c,d"'), split_by_commas('" e","a ""f"" g"')
    (['A', 'B', 'c,d'], [' e', 'a "f" g'])

    Raises:
        ValueError: a quote is not closed, or there is a line break outside quotes.
    """
    parts, place, more = [], 0, True
    while more:
        if found := _QUOTED_PART.match(word, place):
            parts.append(found[1].replace('""', '"'))
        else:
            found = _BARE_PART.match(word, place)
            assert found is not None  # it matches every text
            part = found[1].strip()
            if part.startswith('"'):
                raise ValueError(
                    f"{quoted(part)} has a quote that is not closed; write '\"a,b\",c', and a quote in it twice"
                )
            if "\n" in part or "\r" in part:
                raise ValueError(
                    f"{quoted(part)} has a line break; put commas between values, or quotes around this one"
                )
            parts += [part] if part else []
        place, more = found.end(), found[2] == ","
    return parts


def _values(given: Any, what: str, expected: str) -> list[Any]:
    if isinstance(given, str):
        raise SettingsError([f"{what} is the string {given[:60]!r}; expected {expected}"])
    if hasattr(given, "columns"):
        raise SettingsError(
            [f"{what} is a table, a {type(given).__name__}; expected {expected}: take its column of ids"]
        )
    unordered = isinstance(given, Mapping | set | frozenset)
    if unordered or isinstance(given, bytes) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise SettingsError([f"{what} is {_shown(given)}; expected {expected}"])
    return given.to_pylist() if isinstance(given, pa.Array | pa.ChunkedArray) else list(given)


def _shown(value: Any) -> str:
    return f"{str(value)[:60]!r}, a {type(value).__name__}"
