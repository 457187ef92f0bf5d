"""Only items with equal timestamps change places, and every order of them is as likely."""

from collections import Counter
from itertools import pairwise, permutations

import numpy as np

from linguarec.batching.loader import TrainingLoader
from linguarec.batching.ties import shuffle_ties

OFFSETS = np.array([0, 5, 5, 8])
TIMES = np.array([1, 1, 1, 2, 3, 3, 3, 4])  # the third user's first two items tie with nothing of the first user


def test_only_ties_of_one_sequence_change_places() -> None:
    for seed in range(50):
        found = shuffle_ties(np.arange(8), TIMES, OFFSETS, np.random.default_rng(seed))
        assert sorted(found[:3]) == [0, 1, 2]
        assert found[3:5].tolist() == [3, 4]
        assert sorted(found[5:7]) == [5, 6]
        assert found[7] == 7


def test_every_order_is_as_likely() -> None:
    generator = np.random.default_rng(0)
    orders = Counter(tuple(shuffle_ties(np.arange(8), TIMES, OFFSETS, generator)[:3].tolist()) for _ in range(6000))
    assert orders.keys() == set(permutations(range(3)))
    assert all(abs(count - 1000) < 5 * np.sqrt(1000 * 5 / 6) for count in orders.values())


def loader(times: np.ndarray | None, seed: int = 0) -> TrainingLoader:
    offsets = np.arange(0, 61, 6)
    return TrainingLoader(np.arange(60, dtype=np.int32), offsets, 4, 12, None, seed, times=times)


def epochs(steps: TrainingLoader, count: int) -> list[list[list[int]]]:
    return [
        [[*batch.sequences.items.tolist(), *batch.sequences.targets.tolist()] for batch in steps] for _ in range(count)
    ]


def test_an_epoch_has_an_order_of_its_own_that_a_resumed_training_draws_again() -> None:
    tied = np.zeros(60, np.int64)
    first, second, third = epochs(loader(tied), 3)
    assert len({str(sorted(epoch)) for epoch in (first, second, third)}) == 3
    assert epochs(loader(tied), 1)[0] == first
    assert epochs(loader(tied, seed=1), 1)[0] != first
    resumed = loader(tied)
    resumed.load_state_dict({"epoch": 1, "next_step": 2})
    assert epochs(resumed, 2) == [second[2:], third]


def test_a_sequence_keeps_its_items_and_every_target_follows_its_history() -> None:
    for batch in loader(np.zeros(60, np.int64)):
        offsets = batch.sequences.offsets.tolist()
        for start, stop in pairwise(offsets):
            items, targets = batch.sequences.items[start:stop].tolist(), batch.sequences.targets[start:stop].tolist()
            assert len({item // 6 for item in items + [target for target in targets if target >= 0]}) == 1
            assert all(target == follower for target, follower in zip(targets, items[1:], strict=False) if target >= 0)


def test_distinct_times_keep_the_order() -> None:
    for batch in loader(np.arange(60)):
        targets = batch.sequences.targets
        assert (targets[targets >= 0] == batch.sequences.items[targets >= 0] + 1).all()
