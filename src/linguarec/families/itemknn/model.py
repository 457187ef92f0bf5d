"""Item-kNN: item-based collaborative filtering (Sarwar, Karypis, Konstan and Riedl, WWW 2001).

Two items are similar if the same users have them. With n[i] users who have item i in a training sequence, and n[h, i] who have
both:

    similarity[h, i] = n[h, i] / (sqrt(n[h] n[i]) + shrinkage)

the cosine of the items' columns, drawn towards 0 where few users speak for it. Of each item h the `neighbours` most similar
ones are kept. The score of item i is the sum of similarity[h, i] over the items h of the history, weighted by recency:
`decay` ^ (steps ago), where the last item is 0 steps ago; the paper has no order, which is `decay` 1. An item that occurs
several times counts once, at its last occurrence.

Nothing is larger than the kept similarities: the counts are made and cut down in blocks of items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from torch import nn

from linguarec.checks import above_zero, at_least, refuse
from linguarec.data.ragged import Ragged
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned

_PRODUCTS_AT_ONCE = 1 << 22  # counted pairs of a block: below 300 MB with all that is made of them


@dataclass(frozen=True)
class ItemKNNConfig:
    """Settings of item-kNN.

    Args:
        neighbours: most similar items that are kept of each item.
        shrinkage: added to the denominator of the cosine; larger values trust rare items less.
        decay: weight of a history's item relative to the one after it; 1 = order does not count.
    """

    neighbours: int = tuned(100, low=10, high=1_000, log=True)
    shrinkage: float = tuned(10.0, low=0.1, high=1_000.0, log=True)
    decay: float = tuned(0.7, low=0.1, high=1.0)

    def __post_init__(self) -> None:
        problems = above_zero(self, "neighbours", "decay") + at_least(self, shrinkage=0)
        if self.decay > 1:
            problems.append(f"decay is {self.decay}; it must be at most 1")
        refuse(problems)


class ItemKNN(nn.Module):
    """Items by ID: `similarity` [N, N], sparse, row h = what item h of a history gives to other items.

    It is no part of the state dict: a run stores it once, in files of its own. In a network that was loaded it is None.
    """

    def __init__(self, config: ItemKNNConfig, shape: CatalogueShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.similarity: sparse.csr_array | None = None

    def fit(self, sequences: Ragged) -> None:
        """Count the training sequences of item rows."""
        self.similarity = nearest(sequences, self.shape.num_items, self.config.neighbours, self.config.shrinkage)


def nearest(sequences: Ragged, num_items: int, neighbours: int, shrinkage: float) -> sparse.csr_array:
    """The similarities [N, N] float32 of each item's most similar ones, CSR with sorted indices; equal ones by their row.

    Args:
        sequences: item rows, a sequence for each user.
        num_items: N.
        neighbours: kept of each item.
        shrinkage: at least 0.
    """
    values = np.asarray(sequences.values, dtype=np.int32)
    ones = np.ones(len(values), dtype=np.float32)
    users = sparse.csr_array((ones, values, sequences.offsets.astype(np.int32)), shape=(len(sequences), num_items))
    users.sum_duplicates()
    users.data[:] = 1
    items = sparse.csr_array(users.T)
    lengths = np.diff(users.indptr)
    products = items @ lengths.astype(np.float64)  # counted pairs of each item, at most
    counts = np.diff(items.indptr).astype(np.float64)
    values_of, columns_of, kept = [], [], []
    ends = np.cumsum(products)
    start = 0
    while start < num_items:
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _PRODUCTS_AT_ONCE)))
        block = sparse.csr_array(items[start:stop] @ users)
        similarity, column, lengths = _cut_down(block, start, counts, neighbours, shrinkage)
        values_of.append(similarity)
        columns_of.append(column)
        kept.append(lengths)
        start = stop
    del users, items
    indptr = np.concatenate([np.zeros(1, np.int64), *kept]).cumsum().astype(np.int32)
    data = np.concatenate(values_of) if values_of else np.zeros(0, np.float32)
    values_of.clear()  # before the next copy is made
    indices = np.concatenate(columns_of) if columns_of else np.zeros(0, np.int32)
    return sparse.csr_array((data, indices, indptr), shape=(num_items, num_items))


def _cut_down(
    block: sparse.csr_array, first: int, counts: npt.NDArray[np.float64], neighbours: int, shrinkage: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Similarities and rows of the nearest items of the items `first` and following, and how many each has.

    `block` [n, N]: number of users who have both, for each of these n items and all items.
    """
    block.sort_indices()
    row = np.repeat(np.arange(block.shape[0], dtype=np.int32), np.diff(block.indptr))
    column = block.indices.astype(np.int32, copy=False)
    other = column != row + first
    row, column, both = row[other], column[other], block.data[other]
    similarity = (both / (np.sqrt(counts[row + first] * counts[column]) + shrinkage)).astype(np.float32)
    lengths = np.bincount(row, minlength=block.shape[0])
    if (lengths <= neighbours).all():
        return similarity, column, lengths
    # Only the items with too many are sorted, by one number: the item, then falling similarity. Floats above 0 are ordered
    # as their bits are, and a stable sort leaves equal ones by their row.
    long = np.flatnonzero(lengths[row] > neighbours)
    falling = np.uint64(0xFFFFFFFF) - similarity[long].view(np.uint32).astype(np.uint64)
    order = np.argsort((row[long].astype(np.uint64) << np.uint64(32)) | falling, kind="stable")
    of_long = lengths[lengths > neighbours]
    place = np.arange(len(order)) - np.repeat(np.cumsum(of_long) - of_long, of_long)
    kept = np.ones(len(row), dtype=bool)
    kept[long[order[place >= neighbours]]] = False
    return similarity[kept], column[kept], np.minimum(lengths, neighbours)


def history_weights(rows: Ragged, num_items: int, decay: float) -> Any:
    """Weights [Q, N] (CSR float32) of the items of histories: `decay` ^ (steps ago), at the last occurrence.

    `rows`: item rows, oldest first; -1 = an item without one, which counts as a step.
    """
    query, items, places = rows.last_occurrences()
    known = items >= 0
    query, items, places = query[known], items[known], places[known]
    weights = (decay ** (places - 1).astype(np.float64)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(query, minlength=len(rows)))])
    return sparse.csr_array((weights, items, offsets), shape=(len(rows), num_items))
