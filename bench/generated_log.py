"""What generated logs have in common: how long users are and how popular items."""

import numpy as np
import numpy.typing as npt

SHORTEST = 5  # interactions of a user


def popularity(num_items: int) -> npt.NDArray[np.float64]:
    """Cumulated probabilities [N] of the items: a power law with a flat head."""
    cumulated = np.cumsum(1.0 / (np.arange(num_items) + 50.0) ** 0.8)
    return cumulated / cumulated[-1]


def draw_items(rng: np.random.Generator, cumulated: npt.NDArray[np.float64], number: int) -> npt.NDArray[np.intp]:
    """`number` items by their popularity."""
    return np.searchsorted(cumulated, rng.random(number))


def draw_lengths(rng: np.random.Generator, num_users: int, mean: float) -> npt.NDArray[np.int64]:
    """Interactions [U] of each user: 5 and more, most have few."""
    return SHORTEST - 1 + rng.geometric(1 / (mean - SHORTEST + 1), num_users)
