"""The value of an item's attribute as one text, wherever it comes from: a JSON file, a table, a caller."""

from numbers import Number
from typing import Any

import numpy as np

from linguarec.errors import DataFormatError

LIST_SEPARATOR = " > "


def written_out(value: Any, where: str) -> str | None:
    """The value as it is stored: numbers written out, the values of a list joined; None = there is none.

    None, NaN, and a list that holds nothing else are none.

    >>> written_out(3.5, "price"), written_out(float("nan"), "price")
    ('3.5', None)
    >>> written_out(["Tools", None, ["Rulers", 3]], "category"), written_out([], "category")
    ('Tools > Rulers > 3', None)

    Args:
        value: text, a number, or a list of them.
        where: what the value is, and of which item; the message begins with it.

    Raises:
        DataFormatError: it is something else.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Number):
        return None if value != value else str(value)  # NaN alone differs from itself, in every library's numbers
    if isinstance(value, list | tuple | np.ndarray):
        parts = [text for part in value if (text := written_out(part, where)) is not None]
        return LIST_SEPARATOR.join(parts) if parts else None
    raise DataFormatError(
        f"{where} is a {type(value).__name__} ({str(value)[:60]!r}); expected text, a number, or a list of them. "
        "Write it as text."
    )
