"""The repeat term: whether an item of the history comes back, added to the scores of a ranker.

    score(i | history) = score of the model + r[bucket of the steps since i last occurred]        if i is in the history

Whether users take an item again is a property of the shop, which a model's own scores miss: they put similar items on top, and
the most similar ones are those that the user has. `r` is fitted with the model fixed (`linguarec.evaluation.stacking`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError
from linguarec.files import write_json
from linguarec.stored import AGAIN, read_record

REPEATS_FILE = "repeats.json"  # of a run

# Largest number of steps since the last occurrence in each bucket; 1 step = the last item of the history.
BUCKETS = (1, 2, 4, 8, 16, 32)
NUM_BUCKETS = len(BUCKETS) + 1


@dataclass(frozen=True)
class SeenItems:
    """The distinct items of Q histories.

    `rows`: Q lists of item rows, ascending. `buckets` [number of rows] int64: of the steps since each last occurred.
    """

    rows: Ragged
    buckets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, histories: Ragged) -> "SeenItems":
        """Of histories of item rows, oldest first."""
        query, items, steps = histories.last_occurrences()
        offsets = np.concatenate([[0], np.cumsum(np.bincount(query, minlength=len(histories)))]).astype(np.int64)
        return cls(Ragged(items, offsets), np.searchsorted(BUCKETS, steps).astype(np.int64))


@dataclass(frozen=True)
class Adjustments:
    """What is added to some items' scores for Q queries. `values` [number of rows] float32, in the order of `rows`."""

    rows: Ragged
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def slice(self, start: int, stop: int) -> "Adjustments":
        """The queries `start:stop`."""
        first, last = self.rows.offsets[start], self.rows.offsets[stop]
        return Adjustments(
            Ragged(self.rows.values[first:last], self.rows.offsets[start : stop + 1] - first), self.values[first:last]
        )

    def at(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """What is added to the scores of the items `rows` [Q, k]."""
        found = np.zeros(rows.shape)
        for query, wanted in enumerate(rows):
            part = self.slice(query, query + 1)
            added = dict(zip(part.rows.values.tolist(), part.values.tolist(), strict=True))
            found[query] = [added.get(row, 0.0) for row in wanted.tolist()]
        return found


@dataclass(frozen=True)
class RepeatTerm:
    """`values`: r of each bucket of `BUCKETS` and of what lies beyond them, in the units of the model's scores.

    Raises:
        ValueError: they are not seven finite numbers.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != NUM_BUCKETS or not np.isfinite(self.values).all():
            raise ValueError(f"a repeat term is {NUM_BUCKETS} finite numbers, these are {list(self.values)}")

    def __call__(self, histories: Ragged) -> Adjustments:
        """What is added to the scores after each history."""
        seen = SeenItems.of(histories)
        return Adjustments(seen.rows, np.asarray(self.values, dtype=np.float32)[seen.buckets])

    def save(self, folder: Path) -> None:
        """Write `repeats.json`."""
        write_json(folder / REPEATS_FILE, {"values": list(self.values), "steps": list(BUCKETS)})

    @classmethod
    def load(cls, folder: Path) -> "RepeatTerm | None":
        """Of the run in a folder; None = it has none.

        Raises:
            CheckpointMismatchError: the file is damaged, or of other buckets.
        """
        file = folder / REPEATS_FILE
        if not file.exists():
            return None
        stored = read_record(_Stored, file, "a repeat term", CheckpointMismatchError, AGAIN)
        try:
            if stored.steps != list(BUCKETS):
                raise ValueError(f"its steps are {stored.steps}, expected {list(BUCKETS)}")
            return cls(tuple(stored.values))
        except ValueError as error:
            raise CheckpointMismatchError(f"{file} does not describe a repeat term: {error}. {AGAIN}") from error


@dataclass(frozen=True)
class _Stored:
    values: list[float]
    steps: list[int]
