"""Scores of which most are 0: ranks and best items by the others alone, so that their cost does not grow with the catalogue."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from linguarec.data.ragged import Ragged
from linguarec.ranking.ordering import SPARE, highest, joined, ordered
from linguarec.ranking.ranker import Best
from linguarec.ranking.ranks import TargetRanks, counted
from linguarec.ranking.repeats import Adjustments

IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class SparseScores:
    """Scores [Q, N], of which those that are not 0 are stored; the candidates are all items but the removed ones.

    Args:
        scores: [Q, N] CSR; changed: its indices are sorted.
        removed: rows of the removed items, ascending.
    """

    def __init__(self, scores: sparse.csr_array, removed: IntArray) -> None:
        scores.sort_indices()
        self._removed = removed
        self._items = int(scores.shape[1])
        self._rows = scores.indices.astype(np.int64)
        self._scores = scores.data.astype(np.float32, copy=False)
        self._starts = scores.indptr.astype(np.int64)
        if len(removed):
            kept = ~np.isin(self._rows, removed)
            self._starts = np.concatenate([[0], np.cumsum(kept)])[self._starts]
            self._rows, self._scores = self._rows[kept], self._scores[kept]
        self._present: IntArray | None = None  # rows of the candidates
        self._lengths = np.diff(self._starts)
        self._keys = np.repeat(np.arange(len(self)) * self._items, self._lengths) + self._rows  # ascending

    def __len__(self) -> int:
        return len(self._starts) - 1

    def at(self, query: IntArray, rows: IntArray) -> Floats:
        """The scores of items `rows` for the queries `query`, arrays of one shape."""
        places, stored = self._places(query * self._items + rows)
        return np.where(stored, np.append(self._scores, np.float32(0))[places], np.float32(0))

    def ranks(
        self, targets: IntArray, protocols: Sequence[str], histories: Ragged | None, adjustments: Adjustments | None
    ) -> dict[str, TargetRanks]:
        """Ranks of the targets [Q] among the candidates under some protocols; see `ExactRanker.ranks_by_protocol`."""
        score = self.at(np.arange(len(self)), targets)
        counts = self._compared(score)
        found = {"kept": counts} if "kept" in protocols else {}
        if histories is not None and "excluded" in protocols:
            query, rows = self._candidates(histories)
            others = rows != targets[query]
            query, rows = query[others], rows[others]
            found["excluded"] = counts - counted(query, self.at(query, rows), score)
        if adjustments is not None and "learned" in protocols:
            query, rows, added = self._adjusted(adjustments)
            before = self.at(query, rows)
            after = before + added
            own = rows == targets[query]
            learned = score.copy()
            learned[query[own]] = after[own]
            changed = counted(query, after, learned) - counted(query, before, learned)
            found["learned"] = self._compared(learned) + changed
        return {name: TargetRanks(greater, ties) for name, (greater, ties) in found.items()}

    def best(self, k: int, exclude: Ragged | None = None, adjustments: Adjustments | None = None) -> Best:
        """The best k candidates of each query, without the listed ones or with adjusted scores, not both."""
        width = int(self._lengths.max(initial=0))
        query, rows, added = self._adjusted(adjustments) if adjustments is not None else _NOTHING
        places, stored = self._places(query * self._items + rows)
        further = np.bincount(query[~stored], minlength=len(self))  # adjusted ones whose score was 0
        shape = (len(self), width + int(further.max(initial=0)))
        items, scores = np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
        of_stored = np.repeat(np.arange(len(self)), self._lengths)
        column = np.arange(len(self._rows)) - np.repeat(self._starts[:-1], self._lengths)
        items[of_stored, column], scores[of_stored, column] = self._rows, self._scores
        scores[query[stored], places[stored] - self._starts[query[stored]]] += added[stored]
        query, rows, added = query[~stored], rows[~stored], added[~stored]
        column = width + np.arange(len(query)) - np.repeat(np.cumsum(further) - further, further)
        items[query, column], scores[query, column] = rows, added
        listed = exclude or Ragged(np.zeros(0, np.int64), np.zeros(len(self) + 1, np.int64))
        query, barred = self._candidates(listed)
        places, stored = self._places(query * self._items + barred)
        scores[query[stored], places[stored] - self._starts[query[stored]]] = -np.inf
        best = _best(items, scores, k)
        for short in np.flatnonzero(~(best.scores[:, k - 1] > 0)).tolist():
            own = barred[np.searchsorted(query, short) : np.searchsorted(query, short, side="right")]
            self._filled(best, short, items[short], scores[short], own)
        return best

    def _filled(self, best: Best, query: int, items: IntArray, scores: Floats, barred: IntArray) -> None:
        """Give a query with fewer than k candidates above 0 the first ones of those that are not stored, too."""
        k = best.rows.shape[1]
        if self._present is None:
            self._present = np.setdiff1d(np.arange(self._items), self._removed, assume_unique=True)
        known = np.union1d(items[items >= 0], barred)
        first = self._present[: k + len(known)]
        absent = first[~np.isin(first, known)][:k]
        found = ordered(
            np.concatenate([items, absent])[None],
            np.concatenate([scores, np.zeros(len(absent), np.float32)])[None],
            k,
        )
        count = found.rows.shape[1]
        best.rows[query, :count], best.scores[query, :count] = found.rows[0], found.scores[0]

    def _places(self, keys: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Where the keys are among the stored ones, and whether they are there."""
        places = np.searchsorted(self._keys, keys)
        return places, np.append(self._keys, -1)[places] == keys

    def _compared(self, threshold: Floats) -> npt.NDArray[np.int64]:
        """[2, Q] how many candidates have more than the threshold [Q], and how many have just that."""
        of_query = np.repeat(threshold, self._lengths)
        absent = self._items - len(self._removed) - self._lengths
        zero = np.float32(0)
        greater = self._sums(self._scores > of_query) + np.where(threshold < zero, absent, 0)
        return np.stack([greater, self._sums(self._scores == of_query) + np.where(threshold == zero, absent, 0)])

    def _sums(self, wanted: npt.NDArray[np.bool_]) -> IntArray:
        found: IntArray = np.diff(np.concatenate([[0], np.cumsum(wanted)])[self._starts])
        return found

    def _candidates(self, lists: Ragged) -> tuple[IntArray, IntArray]:
        """Query and row of each distinct listed item that is a candidate, ascending."""
        query = np.repeat(np.arange(len(lists)), lists.lengths)
        keys = np.unique(query * self._items + np.asarray(lists.values, dtype=np.int64))
        query, rows = keys // self._items, keys % self._items
        kept = ~np.isin(rows, self._removed)
        return query[kept], rows[kept]

    def _adjusted(self, adjustments: Adjustments) -> tuple[IntArray, IntArray, Floats]:
        """Query, row and value of each adjustment of a candidate."""
        rows = np.asarray(adjustments.rows.values, dtype=np.int64)
        kept = ~np.isin(rows, self._removed)
        query = np.repeat(np.arange(len(adjustments)), adjustments.rows.lengths)
        return query[kept], rows[kept], adjustments.values[kept]


_NOTHING: tuple[IntArray, IntArray, Floats] = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


def _best(items: IntArray, scores: Floats, k: int) -> Best:
    """The best k of `items` [Q, C] by `scores` [Q, C], filled up to k; equal ones in the order of their rows."""
    count = min(scores.shape[1], k + SPARE)
    values, columns = (each.numpy() for each in highest(torch.from_numpy(scores), count))
    best = joined([ordered(np.take_along_axis(items, columns, axis=1), values, k)], k)
    if count < scores.shape[1]:
        again = np.flatnonzero((values[:, -1] == values[:, k - 1]) & (values[:, -1] > -np.inf))
        whole = ordered(items[again], scores[again], k)
        best.rows[again], best.scores[again] = whole.rows, whole.scores
    return best
