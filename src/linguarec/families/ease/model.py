"""EASE: embarrassingly shallow autoencoders for sparse data (Steck, WWW 2019, arXiv 1905.03375).

A linear model of items by items, without gradient steps. X [users, N] is 1 where a training sequence holds the item, else 0:

    G = X'DX + regularisation I       P = inverse(G)        B = -P / diag(P), column by column, zero diagonal

B minimises |X - XB|^2 + regularisation |B|^2 under a zero diagonal (equations 3 to 8 of the paper), where D is the identity in
the paper and here weighs the users by the length of their sequences: a user with n items has n^2 pairs in X'X, so that few long
sequences decide; n ^ -length_damping counters that. The score of item i is the sum of B[h, i] over the items h of the history.
Here the sum is weighted by recency, `decay` ^ (steps ago), where the last item of the history is 0 steps ago; the paper has no
order, which is `decay` 1. An item that occurs several times counts once, at its last occurrence, as X counts it once.

As query . key: the key of item i is column i of B, the query is the history as a weighted multi-hot vector, [N] both. A new
item has no column.
"""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.linalg import lapack
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.checks import LARGEST, above_zero, fractions, refuse
from linguarec.data.ragged import Ragged
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned

_ROWS_AT_ONCE = 1_024
_LARGEST_REGULARISATION = 1e9  # far above the number of users who share an item


@dataclass(frozen=True)
class EASEConfig:
    """Settings of EASE.

    Args:
        regularisation: lambda of the paper, added to the diagonal; larger values trust rare items less.
        decay: weight of a history's item relative to the one after it; 1 = order does not count.
        length_damping: a user with n items counts n ^ -length_damping; 0 = all users alike, so that long histories, which
            have more pairs of items, count most; 1 = the pairs of a user count about as much as the items.
    """

    regularisation: float = tuned(400.0, low=5.0, high=5_000.0, log=True)
    decay: float = tuned(0.7, low=0.1, high=1.0)
    length_damping: float = tuned(0.0, low=0.0, high=1.0)

    def __post_init__(self) -> None:
        problems = above_zero(self, "regularisation", "decay") + fractions(self, "length_damping")
        if self.regularisation > _LARGEST_REGULARISATION:
            problems.append(
                f"regularisation is {self.regularisation}; it must be at most {_LARGEST_REGULARISATION:,.0f}"
            )
        if self.decay > 1:
            problems.append(f"decay is {self.decay}; it must be at most 1")
        refuse(problems)


class EASE(nn.Module):
    """Items by ID: `keys` [N, N] float32, row i = key of item i = column i of B.

    They are no part of the state dict: a run stores them once, as its keys. In a network that was loaded, `keys` is [0, N].
    """

    keys: Tensor

    def __init__(self, config: EASEConfig, shape: CatalogueShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.register_buffer("keys", torch.zeros(0, shape.num_items), persistent=False)

    @property
    def max_length(self) -> int:
        """Longest history that is read: of any length."""
        return LARGEST

    def fit(self, sequences: Ragged) -> None:
        """Compute the keys from the training sequences of item rows."""
        self.keys = self.keys[:0]  # of an earlier fit: they are N^2 numbers
        weights = item_weights(sequences, self.shape.num_items, self.config)
        self.keys = torch.from_numpy(weights.T).contiguous().to(self.keys.device)

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Vectors [N, 1]: the rows themselves, exact in float32 far beyond the largest catalogue that can be fitted."""
        return items.rows.to(torch.float32).unsqueeze(1)

    def item_keys(self, items: ItemBatch) -> Tensor:
        """Keys [N, all items] of the items; zero for items without a row."""
        if bool((items.rows < 0).all()):
            return torch.zeros(len(items.rows), self.shape.num_items, device=self.keys.device)
        return self.keys.index_select(0, items.rows)

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """Query [B, N] of each history: `decay` ^ (steps ago) at its items; one without a row counts as a step."""
        return weighted_items(
            batch, inputs.index_select(0, batch.items).squeeze(1), self.shape.num_items, self.config.decay
        )


def weighted_items(batch: SequenceBatch, rows: Tensor, num_items: int, decay: float) -> Tensor:
    """[B, N] of each history: `decay` ^ (steps ago) at its items, where they occur last.

    Args:
        batch: the histories.
        rows: [T] item row of each place; negative = an item without one, which counts as a step.
        num_items: N.
        decay: in (0, 1].
    """
    rows = rows.long()
    weights = torch.pow(decay, batch.steps_ago.to(torch.float64)).to(torch.float32)
    found = torch.zeros(len(batch), num_items, device=rows.device)
    # Weights never grow with the steps, so the largest is that of the last occurrence.
    known = rows >= 0
    places = batch.sequence[known] * num_items + rows[known]
    found.view(-1).scatter_reduce_(0, places, weights[known], "amax")
    return found


def memory_needed(num_items: int) -> int:
    """Bytes that `item_weights` and the keys made of it take at most: three matrices [N, N] of float64."""
    return 3 * num_items**2 * 8


def seconds_needed(num_items: int, tried: int = 1_536) -> float:
    """Seconds that the inverse of N items takes here, by the time of a small one of `tried` items: it grows with the cube.

    The small one is worked on by one thread, and the time shared among those that the large one will have: threads wait for
    each other at each step of a factorisation, which on a busy machine is most of a small one's time and little of a large
    one's. Larger matrices are worked on at a higher rate, so it takes rather less; counting the log comes on top.
    """
    size = max(1, min(num_items, tried))
    matrix = np.eye(size) + 1 / size
    threads = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    with threadpool_limits(1, user_api="blas"):
        started = time.perf_counter()
        inverse_of(matrix)
        alone = time.perf_counter() - started
    return alone / threads * (num_items / size) ** 3


def item_weights(sequences: Ragged, num_items: int, config: EASEConfig) -> npt.NDArray[np.float32]:
    """B [N, N] float32, solved in float64; `B[h, i]`: what item h in a history adds to the score of item i.

    Args:
        sequences: item rows, a sequence for each user.
        num_items: N.
        config: regularisation and damping.
    """
    return weights_of(inverse_of(gram(sequences, num_items, config)))


def weights_of(inverse: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """B [N, N] of P [N, N], the inverse of G."""
    num_items = len(inverse)
    diagonal = inverse.diagonal().copy()
    weights = np.empty((num_items, num_items), dtype=np.float32)
    for start in range(0, num_items, _ROWS_AT_ONCE):
        weights[start : start + _ROWS_AT_ONCE] = inverse[start : start + _ROWS_AT_ONCE] / -diagonal
    np.fill_diagonal(weights, 0)
    return weights


def gram(sequences: Ragged, num_items: int, config: EASEConfig) -> npt.NDArray[np.float64]:
    """G = X'DX + regularisation I, where D keeps the number of interactions that X has in all."""
    values = np.asarray(sequences.values, dtype=np.int64)
    interactions = sparse.csr_array(
        (np.ones(len(values), dtype=np.float32), values, sequences.offsets.copy()), shape=(len(sequences), num_items)
    )
    interactions.sum_duplicates()
    interactions.data[:] = 1
    if config.length_damping:
        lengths = np.diff(interactions.indptr).astype(np.float64)
        counts = np.maximum(lengths, 1) ** -config.length_damping
        counts *= lengths.sum() / (counts @ lengths)
        interactions.data = np.repeat(np.sqrt(counts), np.diff(interactions.indptr)).astype(np.float32)
    found: npt.NDArray[np.float64] = (interactions.T @ interactions).toarray().astype(np.float64)
    found[np.diag_indices(num_items)] += config.regularisation
    return found


def inverse_of(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of a symmetric, positive definite matrix by its Cholesky factor, in the memory of the matrix itself."""
    factor, failed = lapack.dpotrf(matrix.T, lower=1, overwrite_a=1)  # LAPACK's order of a matrix is that of matrix.T
    if not failed:
        inverse, failed = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise np.linalg.LinAlgError("G is not positive definite in float64")
    found: npt.NDArray[np.float64] = inverse
    for start in range(0, len(found), _ROWS_AT_ONCE):  # only the lower triangle was written
        stop = start + _ROWS_AT_ONCE
        found[start:stop, stop:] = found[stop:, start:stop].T
        block = np.tril(found[start:stop, start:stop])
        found[start:stop, start:stop] = block + np.tril(block, -1).T
    return found
