"""Counter-based random numbers: each is a hash of integers that name it, so the order of drawing does not matter.

The integers are, for example, (seed, step, window, position). The processes that share a step see the same numbers as a single
process, and a resumed run sees those of an uninterrupted one, without any generator state.
"""

import numpy as np
import numpy.typing as npt

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def uniform(*names: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each combination of `names`: they are broadcast against each other and hashed (splitmix64).

    >>> uniform(0, np.arange(3)).round(3).tolist() == uniform(0, np.arange(5)).round(3).tolist()[:3]
    True
    """
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in names:
            state = _mix(state ^ np.asarray(name).astype(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = state + _INCREMENT
    state = (state ^ (state >> np.uint64(30))) * _FACTORS[0]
    state = (state ^ (state >> np.uint64(27))) * _FACTORS[1]
    mixed: npt.NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed
