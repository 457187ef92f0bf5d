"""Queries that are kept: in the order of their indices, whatever their kind."""

import numpy as np
import pytest
import torch
from scipy import sparse

from linguarec.ranking.queries import KeptQueries

ORDER = [np.array([2, 0]), np.array([3, 1])]


def batches(rows):
    return [(index, rows[index]) for index in ORDER]


def test_dense_sparse_and_several_kinds_at_once() -> None:
    dense, flat = torch.arange(8.0).reshape(4, 2) + 1, sparse.csr_array(np.diag([1.0, 2, 3, 4]))
    wanted = np.array([3, 0])
    assert torch.equal(KeptQueries(batches(dense)).of(wanted), dense[[3, 0]])
    found = KeptQueries(batches(flat)).of(wanted)
    assert sparse.issparse(found) and found.toarray().tolist() == [[0, 0, 0, 4], [1, 0, 0, 0]]
    both = KeptQueries([(index, (dense[index], flat[index])) for index in ORDER]).of(wanted)
    assert torch.equal(both[0], dense[[3, 0]]) and both[1].toarray().tolist() == found.toarray().tolist()


@pytest.mark.parametrize("full", [(), (1,), (0, 1, 2, 3)])
def test_dense_queries_without_their_zeros_are_the_same(full: tuple[int, ...]) -> None:
    """Some batches may be kept without zeros and others with them."""
    dense = torch.zeros(4, 50)
    dense[torch.arange(4), torch.arange(4)] = torch.tensor([1.0, 2, 3, 4])
    dense[list(full)] = 1.0
    kept = KeptQueries(batches(dense))
    assert torch.equal(kept.of(np.arange(4)), dense) and torch.equal(kept.of(np.array([2, 2])), dense[[2, 2]])


def test_one_long_history_does_not_fill_the_others_up() -> None:
    flat, long = torch.zeros(16, 1_000), torch.ones(1, 1_000)
    flat[torch.arange(16), torch.arange(16)] = 1
    kept = KeptQueries([(np.arange(1, 17), flat), (np.array([0]), long)])
    assert not isinstance(kept._queries, torch.Tensor)
    assert torch.equal(kept.of(np.array([0, 3])), torch.cat([long, flat[2:3]]))
    mostly_long = KeptQueries([(np.arange(2, 18), flat), (np.array([0, 1]), long.expand(2, -1))])
    assert isinstance(mostly_long._queries, torch.Tensor)
    assert torch.equal(mostly_long.of(np.array([1, 2])), torch.cat([long, flat[:1]]))
