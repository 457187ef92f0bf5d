"""Items with equal timestamps have no order of their own: their order may be drawn again."""

from typing import Any

import numpy as np
import numpy.typing as npt


def shuffle_ties(
    items: npt.NDArray[Any],
    times: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    generator: np.random.Generator,
) -> npt.NDArray[Any]:
    """The items [T] of all sequences, those of a sequence with equal timestamps in a new random order.

    Args:
        items: [T], all sequences concatenated.
        times: [T] timestamps, ascending within a sequence.
        offsets: [B+1] bounds of the sequences.
        generator: draws the order.
    """
    sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    shuffled: npt.NDArray[Any] = items[np.lexsort((generator.random(len(items)), times, sequence))]
    return shuffled
