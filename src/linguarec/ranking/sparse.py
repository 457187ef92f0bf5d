"""The exact ranker of item-item weights: EASE, item-kNN. Score = sum over the history of a row of a matrix."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from linguarec.data.ragged import Ragged
from linguarec.ranking.exact import ExactRanker, check_lists, removed_rows
from linguarec.ranking.ordering import BestLists, joined
from linguarec.ranking.ranker import Best, IntArray, Within
from linguarec.ranking.ranks import TargetRanks
from linguarec.ranking.repeats import Adjustments
from linguarec.ranking.sparse_scores import SparseScores

Weights: TypeAlias = "sparse.csr_array"
Matrix: TypeAlias = "npt.NDArray[Any] | sparse.csr_array"

_FEW = 8  # only the scores that are not 0 are looked at where they are an eighth of all at most
_PRODUCTS_AT_ONCE = 1 << 21  # queries times the most scores of one: below 200 MB with all that is made of them
_QUERIES_AT_ONCE = 1 << 14


class SparseRanker(ExactRanker[Weights, Matrix]):
    """Ranks by `weights @ matrix`: queries are weights of items [Q, N] (a CSR array), row i of the matrix [N, N] says what
    item i gives to all items.

    Scores are summed up in the precision of the matrix, item by item, and compared in float32: a query's scores do not
    depend on the other queries. An added item is scored by what the items before it give to it; in histories it gives
    nothing itself.

    Args:
        matrix: [N, N], sparse or dense; not copied if it is an array or CSR. [W, N] with W < N if the later items were added.

    Raises:
        ValueError: the matrix has more rows than columns, or a value of it is not finite.
    """

    def __init__(self, matrix: Matrix) -> None:
        super().__init__(np.zeros(0, dtype=np.int64))
        if matrix.ndim != 2 or matrix.shape[0] > matrix.shape[1]:
            raise ValueError(f"the matrix must be [N, N], this is {list(matrix.shape)}")
        columns, self._most = _checked(matrix)
        self._columns: tuple[Matrix, ...] = (columns,)  # successive columns
        self._num_weights = int(matrix.shape[0])

    def __len__(self) -> int:
        return sum(part.shape[1] for part in self._columns)

    def __repr__(self) -> str:
        return f"SparseRanker({len(self):,} items, {len(self.removed):,} of them removed)"

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    @property
    def matrix(self) -> Matrix:
        """[W, N]: what each of the W items that the ranker was made of gives to all items, added ones included."""
        if len(self._columns) == 1:
            return self._columns[0]
        if any(sparse.issparse(part) for part in self._columns):
            return sparse.csr_array(sparse.hstack([sparse.csr_array(part) for part in self._columns]))
        return np.concatenate(self._columns, axis=1)

    def count(self, queries: Weights) -> int:
        """Q; see `ExactRanker`."""
        known = sparse.issparse(queries) and queries.format == "csr" and queries.ndim == 2
        if not known or queries.shape[1] != self._num_weights:
            raise ValueError(f"queries must be a sparse array [Q, {self._num_weights}], CSR")
        return int(queries.shape[0])

    def take(self, queries: Weights, start: int, stop: int) -> Weights:
        """The queries `start:stop`."""
        return queries[start:stop]

    def score(self, queries: Weights, out: Tensor) -> None:
        """See `ExactRanker`."""
        out[: queries.shape[0]] = torch.from_numpy(self._scores_float32(queries))

    def error(self, queries: Weights) -> npt.NDArray[np.float64]:
        """Zero: the scores are the exact ones."""
        if not np.isfinite(queries.data).all():
            raise ValueError("queries hold weights that are not finite")
        return np.zeros(queries.shape[0])

    def largest(self, queries: Weights) -> npt.NDArray[np.float64]:
        """See `ExactRanker`: all weights of a query times the largest value of the matrix."""
        sums = np.asarray(abs(queries).sum(axis=1), dtype=np.float64)
        return np.asarray(sums * self._most)

    def scores_of(self, queries: Weights, rows: Tensor) -> Tensor:
        """See `ExactRanker`: the scores of `score`."""
        if self._few(queries):
            wanted = rows.numpy()
            scores = SparseScores(self._sparse_product(queries), np.zeros(0, dtype=np.int64))
            return torch.from_numpy(scores.at(np.arange(len(wanted))[:, None], wanted).astype(np.float64))
        found = np.take_along_axis(self._scores_float32(queries), rows.numpy(), axis=1)
        return torch.from_numpy(found.astype(np.float64))

    def top_k(self, queries: Weights, k: int, exclude: Ragged | None = None, within: Within | None = None) -> Best:
        """See `Ranker`."""
        total = self.count(queries)
        if within is not None or k < 1 or not total or not self._few(queries):
            return super().top_k(queries, k, exclude, within)
        check_lists(total, exclude, within)
        if exclude is not None:
            self.checked(exclude.values)
        self.error(queries)  # refuses what is not finite
        parts = []
        for start, scores in self._sparse_scores(queries):
            index = np.arange(start, start + len(scores))
            parts.append(scores.best(k, None if exclude is None else exclude.select(index)))
        return joined(parts, k)

    def _ranks(
        self,
        queries: Weights,
        targets: IntArray,
        protocols: Sequence[str],
        within: Within | None,
        histories: Ragged | None,
        adjustments: Adjustments | None = None,
        lists: BestLists | None = None,
    ) -> dict[str, TargetRanks]:
        total = self.count(queries)
        if within is not None or len(targets) != total or not total or not self._few(queries):
            return super()._ranks(queries, targets, protocols, within, histories, adjustments, lists)
        if histories is not None:
            self.checked(histories.values)
        self.error(queries)  # refuses what is not finite
        of_target = self._targets(targets).numpy()
        found: dict[str, list[TargetRanks]] = {name: [] for name in protocols}
        for start, scores in self._sparse_scores(queries):
            index = np.arange(start, start + len(scores))
            seen = None if histories is None else histories.select(index)
            added = None if adjustments is None else adjustments.slice(start, start + len(scores))
            for name, ranks in scores.ranks(of_target[index], protocols, seen, added).items():
                found[name].append(ranks)
                if lists is not None:
                    barred = seen if name == "excluded" else None
                    lists.take(name, scores.best(lists.k, barred, added if name == "learned" else None).rows)
        return {name: TargetRanks.joined(parts) for name, parts in found.items()}

    def _few(self, queries: Weights) -> bool:
        """Whether most items have a score of 0 for these queries."""
        if self._lengths is None:
            return False
        return bool(self._products(queries).sum() * _FEW <= queries.shape[0] * len(self))

    @cached_property
    def _lengths(self) -> npt.NDArray[np.int64] | None:
        """[W] number of values in each row of the matrix; None = not all of it is sparse."""
        parts: tuple[Any, ...] = self._columns
        if not all(map(sparse.issparse, parts)):
            return None
        lengths: npt.NDArray[np.int64] = np.diff(np.sum([part.indptr.astype(np.int64) for part in parts], axis=0))
        return lengths

    def _products(self, queries: Weights) -> npt.NDArray[np.int64]:
        """[Q] how many products of a weight and a value of the matrix make the scores of each query: at least the scores."""
        assert self._lengths is not None
        ends = np.concatenate([[0], np.cumsum(self._lengths[queries.indices])])
        found: npt.NDArray[np.int64] = np.diff(ends[queries.indptr])
        return found

    def _sparse_product(self, queries: Weights) -> sparse.csr_array:
        """Scores [Q, N], where all of the matrix is sparse."""
        parts = [queries @ columns for columns in self._columns]
        return parts[0] if len(parts) == 1 else sparse.csr_array(sparse.hstack(parts, format="csr"))

    def _sparse_scores(self, queries: Weights) -> Iterator[tuple[int, SparseScores]]:
        """The scores of successive groups of queries, with the first one's number."""
        sizes, start = np.minimum(self._products(queries), len(self)), 0
        while start < len(sizes):
            window = sizes[start : start + _QUERIES_AT_ONCE]
            table = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)  # of `SparseScores.best`; ascending
            stop = start + max(1, int(np.searchsorted(table, _PRODUCTS_AT_ONCE, side="right")))
            yield start, SparseScores(self._sparse_product(self.take(queries, start, stop)), self.removed)
            start = stop

    def subset(self, rows: npt.NDArray[np.int64]) -> "SparseRanker":
        """A ranker of these items alone, in this order, for the same queries."""
        whole = self.matrix
        columns = sparse.csr_array(sparse.csc_array(whole)[:, rows]) if sparse.issparse(whole) else whole[:, rows]
        return self._snapshot((columns,), np.zeros(0, dtype=np.int64), self._num_weights, self._most)

    def with_added(self, keys: Matrix) -> "SparseRanker":
        """See `Ranker`; `keys` [W, n]: what each of the items that the ranker was made of gives to the n new ones.

        Raises:
            ValueError: they are not [W, n], or a value is not finite.
        """
        if keys.ndim != 2 or keys.shape[0] != self._num_weights:
            raise ValueError(f"new columns must be [{self._num_weights}, n], these are {list(keys.shape)}")
        columns, most = _checked(keys)
        return self._snapshot((*self._columns, columns), self.removed, self._num_weights, max(most, self._most))

    def averaged(self, rows: npt.NDArray[np.int64]) -> Matrix:
        """See `ExactRanker`: mean columns [N, n]."""
        column = np.repeat(np.arange(len(rows)), rows.shape[1])
        values = np.full(rows.size, 1 / rows.shape[1], dtype=np.float32)
        return self.matrix @ sparse.csr_array((values, (rows.ravel(), column)), shape=(len(self), len(rows)))

    def with_removed(self, rows: IntArray) -> "SparseRanker":
        """See `Ranker`."""
        return self._snapshot(self._columns, removed_rows(self.removed, rows, len(self)), self._num_weights, self._most)

    def _scores_float32(self, queries: Weights) -> npt.NDArray[np.float32]:
        """Scores [Q, N]."""
        parts = []
        for columns in self._columns:
            product = queries @ columns
            parts.append((product.toarray() if sparse.issparse(product) else product).astype(np.float32, copy=False))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _snapshot(
        self, columns: tuple[Matrix, ...], removed: npt.NDArray[np.int64], num_weights: int, most: float
    ) -> "SparseRanker":
        made = SparseRanker.__new__(SparseRanker)
        ExactRanker.__init__(made, removed)
        made._columns, made._num_weights, made._most = columns, num_weights, most
        return made


def _checked(matrix: Matrix) -> tuple[Matrix, float]:
    """The matrix, sparse ones as CSR, and its largest absolute value."""
    values: Any = matrix.data if sparse.issparse(matrix) else matrix
    most = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    if not np.isfinite(most):
        raise ValueError("weights between items are not finite")
    return (sparse.csr_array(matrix) if sparse.issparse(matrix) else matrix), most
