"""Arrays written to disk in pieces."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def write_npy(path: Path, dtype: npt.DTypeLike, length: int, pieces: Iterable[npt.NDArray[Any]]) -> None:
    """Write a one-dimensional array of known length piece by piece.

    Raises:
        ValueError: the pieces do not add up to `length`.
    """
    kind = np.dtype(dtype)
    written = 0
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype=kind).data)
            written += len(piece)
    if written != length:
        raise ValueError(f"{path.name}: {written} values were written where {length} were announced")
