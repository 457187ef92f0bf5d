import numpy as np
import pytest

from linguarec.batching.histories import history_batches
from linguarec.data.ragged import Ragged

HISTORIES = Ragged.from_lists([[5, 6, 7], [1], [9, 8, 7, 6, 5], [2, 3], [4]])


def test_batches_hold_every_history_once_shortest_first():
    found = [(index.tolist(), batch) for index, batch in history_batches(HISTORIES, max_length=4, tokens_per_batch=4)]
    assert [index for index, _ in found] == [[1, 4, 3], [0], [2]]
    assert [batch.items.tolist() for _, batch in found] == [[1, 4, 2, 3], [5, 6, 7], [8, 7, 6, 5]]
    assert [batch.offsets.tolist() for _, batch in found] == [[0, 1, 2, 4], [0, 3], [0, 4]]


def test_positions_start_at_the_window_and_there_are_no_targets():
    (index, batch), *_ = history_batches(HISTORIES, max_length=3, users=np.array([10, 11, 12, 13, 14]))
    assert index.tolist() == [1, 4, 3, 0, 2]
    assert batch.items.tolist() == [1, 4, 2, 3, 5, 6, 7, 7, 6, 5]
    assert batch.positions.tolist() == [0, 0, 0, 1, 0, 1, 2, 0, 1, 2]
    assert batch.items[batch.last].tolist() == [1, 4, 3, 7, 5]
    assert batch.users.tolist() == [11, 14, 13, 10, 12]
    assert set(batch.targets.tolist()) == {-1}


def test_a_history_longer_than_the_budget_is_a_batch_of_its_own():
    assert [len(batch) for _, batch in history_batches(HISTORIES, max_length=50, tokens_per_batch=1)] == [1] * 5


def test_empty_history_is_refused():
    with pytest.raises(ValueError, match="history 1 is empty"):
        list(history_batches(Ragged.from_lists([[1], []]), max_length=5))


def test_no_histories():
    assert list(history_batches(Ragged.from_lists([]), max_length=5)) == []
