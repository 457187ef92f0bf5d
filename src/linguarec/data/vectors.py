"""Checks that item vectors are finite, in blocks, so that a memory map may be larger than memory.

A single NaN would spread to all weights in the first step, hours before the user sees it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linguarec.errors import DataFormatError

BLOCK = 1 << 22  # numbers read at once: 16 MiB of float32


def check_finite(
    vectors: npt.NDArray[Any],
    file: Path,
    item: Callable[[int], str],
    mend: str,
    into: npt.NDArray[np.float32] | None = None,
) -> None:
    """Refuse vectors [N, D] with NaN or an infinity, in one pass.

    Args:
        vectors: may be a memory map.
        file: of the vectors, for the message.
        item: returns the name of the item of a row, for the message.
        mend: a sentence that tells the user how to fix it.
        into: [N, D]; receives a copy of the vectors.

    Raises:
        DataFormatError: some rows are not finite as float32; the first is named, all are counted.
    """
    rows = max(1, BLOCK // max(1, vectors.shape[1]))
    first, count = -1, 0
    for start in range(0, len(vectors), rows):
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes an infinity, and is reported as one
            block = np.asarray(vectors[start : start + rows], dtype=np.float32)
        if into is not None:
            into[start : start + rows] = block
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad) and first < 0:
            first = start + int(bad[0])
        count += len(bad)
    if count:
        hold = "vector holds" if count == 1 else "vectors hold"
        raise DataFormatError(
            f"{file}: {count:,} of {len(vectors):,} item {hold} NaN or an infinity, first that of row {first} "
            f"({item(first)}). {mend}"
        )
