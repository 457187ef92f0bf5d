"""Names of attribute columns in prepared folders and in the catalogues of runs, apart from linguarec's own columns."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from linguarec.errors import DataFormatError, quoted

OWN_COLUMNS = ("item", "raw_id", "text", "position", "code", "known_id", "row", "removed")


def attribute_names(columns: Iterable[str], file: Path) -> list[str]:
    """Names for the user's columns, in order, that do not collide with linguarec's own columns.

    Raises:
        DataFormatError: two columns have the same name, ignoring case.
    """
    columns = list(columns)
    names = [f"{column}_attribute" if column.lower() in OWN_COLUMNS else column for column in columns]
    if pair := same_names(names):
        first, second = (quoted(columns[place]) for place in pair)
        raise DataFormatError(
            f"{file}: the attributes {first} and {second} are both called {quoted(names[pair[1]])} here; rename one."
        )
    return names


def same_names(names: Sequence[str]) -> tuple[int, int] | None:
    """The first two indices with the same name, ignoring case, as DuckDB and SQL do; None if all differ."""
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        first = seen.setdefault(name.lower(), place)
        if first != place:
            return first, place
    return None
