"""Queries of many histories, kept to be scored several times, some histories at a time."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

_MOSTLY = 0.9  # of dense queries that is zero, if they are kept without their zeros
IntArray = npt.NDArray[np.int64]


class KeptQueries:
    """The queries of histories 0, 1, 2 and so on, in batches as `Scorer.queries` yields them.

    Dense queries that are nearly all zero, as those of EASE, are kept without their zeros.
    """

    def __init__(self, batches: Iterable[tuple[IntArray, Any]]) -> None:
        index, kept = [], []
        for its_index, queries in batches:
            index.append(its_index)
            kept.append(_kept(queries))
        self._queries = _joined(kept, np.argsort(np.concatenate(index)))

    def of(self, rows: IntArray) -> Any:
        """These of the queries, in this order, as one batch."""
        return _taken(self._queries, rows)


class _MostlyZero:
    """Dense float32 queries without their zeros, on the CPU; `device`: where they were, and where they are used."""

    def __init__(self, rows: sparse.csr_array, device: torch.device) -> None:
        self.rows = rows
        self.device = device


def _kept(queries: Any) -> Any:
    if isinstance(queries, tuple):
        return tuple(_kept(each) for each in queries)
    if not isinstance(queries, Tensor):
        return queries
    queries = queries.detach().float()
    if torch.count_nonzero(queries) < (1 - _MOSTLY) * queries.numel():
        return _MostlyZero(_without_zeros(queries), queries.device)
    return queries


def _without_zeros(queries: Tensor) -> sparse.csr_array:
    return sparse.csr_array(queries.cpu().numpy())


def _joined(batches: Sequence[Any], order: IntArray) -> Any:
    if isinstance(batches[0], tuple):
        return tuple(_joined(each, order) for each in zip(*batches, strict=True))
    if any(isinstance(each, _MostlyZero) for each in batches):  # long histories may have a batch that is not
        rows = sparse.vstack([each.rows if isinstance(each, _MostlyZero) else _without_zeros(each) for each in batches])
        joined = _MostlyZero(sparse.csr_array(rows)[order], batches[0].device)
        return joined if rows.nnz < (1 - _MOSTLY) * rows.shape[0] * rows.shape[1] else _dense(joined)
    if isinstance(batches[0], Tensor):
        return torch.cat(list(batches))[torch.from_numpy(order).to(batches[0].device)]
    return sparse.csr_array(sparse.vstack(batches))[order]


def _taken(queries: Any, rows: IntArray) -> Any:
    if isinstance(queries, tuple):
        return tuple(_taken(each, rows) for each in queries)
    if isinstance(queries, _MostlyZero):
        return _dense(_MostlyZero(queries.rows[rows], queries.device))
    return queries[torch.from_numpy(rows).to(queries.device) if isinstance(queries, Tensor) else rows]


def _dense(queries: _MostlyZero) -> Tensor:
    return torch.from_numpy(queries.rows.toarray()).to(queries.device)
