"""Converts the value of an item's attribute (from a JSON file, a table or a caller) to one string."""

from numbers import Number
from typing import Any

import numpy as np

from linguarec.errors import DataFormatError

LIST_SEPARATOR = " > "


def written_out(value: Any, where: str) -> str | None:
    """The value as the string that is stored: numbers are formatted, list values are joined. None = no value.

    None, NaN, and a list of nothing else count as no value.

    >>> written_out(3.5, "price"), written_out(float("nan"), "price")
    ('3.5', None)
    >>> written_out(["Tools", None, ["Rulers", 3]], "category"), written_out([], "category")
    ('Tools > Rulers > 3', None)

    Args:
        value: text, a number, or a list of them.
        where: names the value and its item; the error message begins with it.

    Raises:
        DataFormatError: the value has another type.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Number):
        return None if value != value else str(value)  # only NaN differs from itself, in every library
    if isinstance(value, list | tuple | np.ndarray):
        parts = [text for part in value if (text := written_out(part, where)) is not None]
        return LIST_SEPARATOR.join(parts) if parts else None
    raise DataFormatError(
        f"{where} is a {type(value).__name__} ({str(value)[:60]!r}); expected text, a number, or a list of them. "
        "Write it as text."
    )
