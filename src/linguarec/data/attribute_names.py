"""Names of attribute columns in prepared folders and in the catalogues of runs, which have columns of their own."""

from collections.abc import Iterable
from pathlib import Path

from linguarec.errors import DataFormatError

OWN_COLUMNS = ("item", "raw_id", "text", "position", "code", "known_id", "row", "removed")


def attribute_name(column: str) -> str:
    """What a column of the user's is called here: clear of our own columns."""
    return f"{column}_attribute" if column.lower() in OWN_COLUMNS else column


def attribute_names(columns: Iterable[str], file: Path) -> list[str]:
    """Their names here, in their order.

    Raises:
        DataFormatError: two have one name; names that differ in case alone are one.
    """
    named: dict[str, str] = {}
    names = []
    for column in columns:
        name = attribute_name(column)
        if name.lower() in named:
            raise DataFormatError(
                f"{file}: the attributes {named[name.lower()]!r} and {column!r} are both called {name!r} here; rename one."
            )
        named[name.lower()] = column
        names.append(name)
    return names
