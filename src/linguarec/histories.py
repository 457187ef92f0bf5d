"""Histories and lists of item ids as callers give them: lists, NumPy arrays, Series, Arrow arrays, iterators."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from linguarec.errors import SettingsError


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
