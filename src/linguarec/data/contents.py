"""Checks of what the files of a prepared folder hold; their types and shapes are checked where they are read."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linguarec.data.splits import EXCLUDED, TRAIN, Roles
from linguarec.errors import DataFormatError


def check_distinct(ids: Sequence[str], file: Path, mend: str) -> None:
    """Refuse a raw id that occurs twice.

    Raises:
        DataFormatError: one does; it is named.
    """
    if len(set(ids)) < len(ids):
        again = next(raw_id for raw_id, times in Counter(ids).items() if times > 1)
        raise DataFormatError(f"{file} has the raw id {again!r} more than once. {mend}")


def check_roles(roles: Roles, file: Path, mend: str) -> None:
    """Refuse roles of interactions that there are not.

    Raises:
        DataFormatError: a number is none of a role.
    """
    if len(roles) and not TRAIN <= roles.min() <= roles.max() <= EXCLUDED:
        raise DataFormatError(
            f"{file} holds roles from {roles.min()} to {roles.max()}, expected {TRAIN} to {EXCLUDED}. {mend}"
        )


def check_rows(rows: npt.NDArray[np.integer[Any]], num_items: int, file: Path, mend: str) -> None:
    """Refuse rows of items that the folder does not have.

    Raises:
        DataFormatError: a row is negative or too large.
    """
    if len(rows) and not 0 <= rows.min() <= rows.max() < num_items:
        raise DataFormatError(
            f"{file} holds item rows from {rows.min()} to {rows.max()}, the folder has {num_items} items. {mend}"
        )
