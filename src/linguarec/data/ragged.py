"""Sequences of different lengths in two flat arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Ragged:
    """`values` [T] and `offsets` [B+1] int64: sequence b is `values[offsets[b]:offsets[b + 1]]`.

    Raises:
        ValueError: offsets do not start at 0, decrease, or do not end at the number of values.
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ValueError(f"offsets must run from 0 to {len(self.values)}, the number of values")
        if np.any(self.offsets[1:] < self.offsets[:-1]):
            raise ValueError("offsets must not decrease")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self):,} sequences")
        row %= len(self)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __repr__(self) -> str:
        return f"Ragged({len(self):,} sequences, {len(self.values):,} values)"

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Length of each sequence, [B] int64."""
        return np.diff(self.offsets)

    def select(self, index: npt.NDArray[np.int64]) -> "Ragged":
        """The sequences at `index`, in that order."""
        lengths = self.lengths[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        flat = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - self.offsets[index], lengths)
        return Ragged(self.values[flat], offsets)

    def last_occurrences(self) -> "tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]":
        """The distinct values of each sequence, by sequence and value: sequence, value, and how many places from the end (1 =
        the last place) it last occurs, [S] each."""
        sequence = np.repeat(np.arange(len(self)), self.lengths)
        values = np.asarray(self.values, dtype=np.int64)
        places = np.repeat(self.offsets[1:], self.lengths) - np.arange(len(values))
        order = np.lexsort((places, values, sequence))
        sequence, values, places = sequence[order], values[order], places[order]
        first = np.ones(len(values), dtype=bool)
        first[1:] = (sequence[1:] != sequence[:-1]) | (values[1:] != values[:-1])
        return sequence[first], values[first], places[first]

    def without_last(self) -> "Ragged":
        """Each sequence but its last value; an empty one stays empty."""
        lengths = self.lengths
        kept = np.ones(len(self.values), dtype=bool)
        kept[self.offsets[1:][lengths > 0] - 1] = False
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.maximum(lengths - 1, 0))])
        return Ragged(self.values[kept], offsets)

    @classmethod
    def from_lists(cls, rows: "list[list[int]]") -> "Ragged":
        """Pack Python lists of integers; mainly for small inputs and tests."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(np.array([value for row in rows for value in row], dtype=np.int32), offsets)
