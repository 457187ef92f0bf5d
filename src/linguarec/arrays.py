"""Writes NumPy files so that a full disk is an error."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class _Writable(Protocol):
    def write(self, data: Any) -> int: ...


class _Stream:
    """Hides from NumPy that it writes a file, so that the data pass through Python's `write`, which reports every error."""

    def __init__(self, opened: _Writable) -> None:
        self._opened = opened

    def write(self, data: Any) -> int:
        return self._opened.write(data)


def save_array(file: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as a `.npy` file.

    `np.save` writes through a buffer of the C library and ignores the error of its last part: on a full disk, up to 4 KiB of
    an array are lost without a word.

    Raises:
        OSError: the disk is full, or the path is not writable.
    """
    with file.open("wb") as opened:
        np.lib.format.write_array(_Stream(opened), np.asanyarray(array), allow_pickle=False)
