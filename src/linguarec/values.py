"""Converts the value of an item's attribute (from a JSON file, a table or a caller) to one string."""

from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np

from linguarec.errors import DataFormatError, quoted

LIST_SEPARATOR = " > "
LARGEST_WHOLE = 1 << 53  # integers up to this one are exact as floats
INNER_SEPARATOR = ", "  # between the values of one key of a dictionary


def written_out(value: Any, where: str, separator: str = LIST_SEPARATOR) -> str | None:
    """The value as the string that is stored: numbers are formatted, list values are joined, a dictionary is the list of its
    "key: value" pairs. None = no value.

    None, NaN, and a list of nothing else count as no value. Within a dictionary, a key without a value or with an empty text
    is left out.

    >>> written_out(3.5, "price"), written_out(float("nan"), "price")
    ('3.5', None)
    >>> written_out(["Tools", None, ["Rulers", 3]], "category"), written_out([], "category")
    ('Tools > Rulers > 3', None)
    >>> written_out({"Brand": "Acme", "Sizes": ["S", "M"], "Color": None}, "details")
    'Brand: Acme > Sizes: S, M'

    Args:
        value: text, a number, a list of them, or a dictionary of them.
        where: names the value and its item; the error message begins with it.
        separator: stands between the values of a list.

    Raises:
        DataFormatError: the value, or one within it, has another type.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Number):
        return None if value != value else str(value)  # only NaN differs from itself, in every library
    if isinstance(value, list | tuple | np.ndarray):
        parts = [text for part in value if (text := written_out(part, where, separator)) is not None]
        return separator.join(parts) if parts else None
    if isinstance(value, Mapping):
        pairs = [(plain_key(key), written_out(part, where, INNER_SEPARATOR)) for key, part in value.items()]
        return separator.join(f"{key}: {text}" for key, text in pairs if text) or None
    raise DataFormatError(
        f"{where} is a {type(value).__name__} ({quoted(value)}); expected text, a number, a list or a dictionary of them. "
        "Write it as text."
    )


def written_id(value: Any, where: str) -> str | None:
    """A raw id as a string; None = it is missing. Whole numbers of a column of floats are integers.

    >>> written_id("B01", "item"), written_id(7.0, "item"), written_id(float("nan"), "item")
    ('B01', '7', None)

    Raises:
        DataFormatError: the value is neither text nor a number.
    """
    if value is not None and not isinstance(value, str | Number):
        raise DataFormatError(f"{where} is a {type(value).__name__} ({quoted(value)}); expected text or a number.")
    if isinstance(value, float | np.floating) and value % 1 == 0 and abs(value) < LARGEST_WHOLE:
        return str(int(value))
    return written_out(value, where)


def plain_key(key: Any) -> str:
    """A key of a dictionary as it is shown: with single blanks, and without a colon at its end.

    >>> plain_key("\\n    Product Dimensions: \\n    ")
    'Product Dimensions'
    """
    return " ".join(str(key).split()).rstrip(": ")


def part_of(value: Any, key: str) -> Any:
    """The value of one key of a dictionary, None where there is none; keys are compared as `plain_key` shows them.

    >>> part_of({"Brand:": "Acme"}, "Brand"), part_of("Acme", "Brand")
    ('Acme', None)
    """
    if not isinstance(value, Mapping):
        return None
    return next((part for name, part in value.items() if plain_key(name) == key), None)
