"""Masked steps: every window once, as many hidden places as said, the same for any number of processes, resumable."""

from itertools import pairwise

import numpy as np
import pytest

from linguarec.batching.loader import TrainingBatch
from linguarec.batching.masked import MaskedLoader, whole_windows
from linguarec.data.ragged import Ragged

LENGTHS = [0, 1, 2, 3, 30, 4, 9, 2, 12, 5, 21, 7, 8]
MAX_LENGTH = 8
SEQUENCES = Ragged(
    np.arange(sum(LENGTHS), dtype=np.int32) + 100, np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
)


def make(mask_share: float = 0.4, last_share: float = 0.3, seed: int = 0) -> MaskedLoader:
    return MaskedLoader(SEQUENCES, MAX_LENGTH, 16, None, mask_share, last_share, seed)


def content(batch: TrainingBatch) -> list[tuple[list[int], list[int]]]:
    """(items, targets) of each row."""
    return [
        (batch.sequences.items[start:stop].tolist(), batch.sequences.targets[start:stop].tolist())
        for start, stop in pairwise(batch.sequences.offsets.tolist())
    ]


def rows(loader: MaskedLoader, epochs: int = 1) -> list[tuple[list[int], list[int]]]:
    return [row for _ in range(epochs) for batch in loader for row in content(batch)]


def test_windows_hold_every_item_and_only_long_sequences_are_cut() -> None:
    users, start, stop = whole_windows(np.asarray(SEQUENCES.offsets), MAX_LENGTH, 4)
    seen: dict[int, set[int]] = {}
    for user, first, last in zip(users.tolist(), start.tolist(), stop.tolist(), strict=True):
        assert SEQUENCES.offsets[user] <= first < last <= SEQUENCES.offsets[user + 1]
        assert last - first == min(LENGTHS[user], MAX_LENGTH)
        seen.setdefault(user, set()).update(range(first, last))
    assert {user: len(items) for user, items in seen.items()} == {
        user: length for user, length in enumerate(LENGTHS) if length >= 2
    }
    assert [int((users == user).sum()) for user in (2, 4, 6, 12)] == [1, 7, 2, 1]
    assert stop[users == 4].tolist() == [SEQUENCES.offsets[5] - back for back in (0, 4, 8, 12, 16, 20, 22)]


def test_a_target_stands_exactly_where_an_item_is_hidden_and_each_window_comes_once_an_epoch() -> None:
    _, start, stop = whole_windows(np.asarray(SEQUENCES.offsets), MAX_LENGTH, MAX_LENGTH // 2)
    expected = sorted((first + 100, last - first) for first, last in zip(start.tolist(), stop.tolist(), strict=True))
    loader = make()
    for _ in range(3):
        found = []
        for items, targets in rows(loader):
            assert [item < 0 for item in items] == [target >= 0 for target in targets]
            whole = [max(pair) for pair in zip(items, targets, strict=True)]
            assert whole == list(range(whole[0], whole[0] + len(whole)))  # items are numbered along the log
            found.append((whole[0], len(whole)))
        assert sorted(found) == expected


@pytest.mark.parametrize("mask_share", [0.01, 0.2, 0.6, 0.99])
def test_as_many_places_are_hidden_as_said(mask_share: float) -> None:
    for items, _ in rows(make(mask_share, last_share=0.0), 3):
        hidden = sum(item < 0 for item in items)
        assert hidden == min(max(1, round(mask_share * len(items))), len(items) - 1)


def test_the_last_place_is_hidden_alone_in_a_share_of_the_windows() -> None:
    found = rows(make(0.6, 0.3), 300)
    alone = [items for items, _ in found if len(items) > 3 and sum(item < 0 for item in items) == 1]
    assert all(items[-1] < 0 for items in alone)
    longer = sum(len(items) > 3 for items, _ in found)
    assert len(alone) / longer == pytest.approx(0.3, abs=0.03)
    assert all(items[-1] < 0 and min(items[:-1]) >= 0 for items, _ in rows(make(last_share=1.0)))


def test_first_and_last_places_are_hidden_as_often_as_others() -> None:
    found = [items for items, _ in rows(make(0.25, 0.0), 400) if len(items) == MAX_LENGTH]
    shares = np.mean([[item < 0 for item in items] for items in found], axis=0)
    np.testing.assert_allclose(shares, 0.25, atol=0.03)


def test_epochs_differ_and_seeds_repeat() -> None:
    loader = make()
    first, second = rows(loader), rows(loader)
    assert first != second
    assert rows(make()) == first
    assert rows(make(seed=1)) != first


@pytest.mark.parametrize("taken", [0, 1, 3, 7])
def test_goes_on_where_its_state_was_taken(taken: int) -> None:
    loader = make()
    steps = len(loader)
    unbroken = [content(batch) for _ in range(4) for batch in loader]
    loader, stream = make(), []
    while len(stream) < taken:
        for batch in loader:
            stream.append(content(batch))
            if len(stream) == taken:
                break
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    while len(stream) < 4 * steps:
        stream += [content(batch) for batch in resumed]
    assert stream == unbroken


def test_processes_hide_what_one_hides_and_share_its_targets() -> None:
    whole, parts = make(), [make() for _ in range(3)]
    for rank, part in enumerate(parts):
        part.shard(rank, 3)
    for batch, *shares in zip(whole, *parts, strict=True):
        together = [row for share in shares if share.loss_scale for row in content(share)]
        assert sorted(together) == sorted(content(batch))
        assert sum(share.loss_scale for share in shares) == pytest.approx(3)
        assert batch.step_targets == int((batch.sequences.targets >= 0).sum())


def test_a_process_without_windows_runs_one_without_targets() -> None:
    loader = MaskedLoader(SEQUENCES.select(np.array([2])), MAX_LENGTH, 16, None, 0.2, 0.1, 0)
    loader.shard(1, 2)
    (batch,) = loader
    assert batch.loss_scale == 0
    assert len(batch.sequences) == 1
    assert batch.sequences.targets.tolist() == [-1, -1]
