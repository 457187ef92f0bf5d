"""Training steps: complete, repeatable, resumable, and evenly split over processes."""

from itertools import pairwise

import numpy as np
import pytest

from linguarec.batching.loader import TrainingBatch, TrainingLoader
from linguarec.errors import SettingsError

LENGTHS = [2, 3, 30, 4, 9, 2, 12, 5, 21, 7]


def make(stride: int | None = None, seed: int = 0, exclude_history: bool = False) -> TrainingLoader:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    items = np.arange(offsets[-1], dtype=np.int32) + 100
    return TrainingLoader(items, offsets, 8, 16, stride, seed, exclude_history)


def content(batch: TrainingBatch) -> list[tuple[list[int], list[int]]]:
    """(items, targets) of each row."""
    offsets = batch.sequences.offsets.tolist()
    return [
        (batch.sequences.items[start:stop].tolist(), batch.sequences.targets[start:stop].tolist())
        for start, stop in pairwise(offsets)
    ]


def test_targets_are_the_items_that_follow() -> None:
    seen: list[int] = []
    for batch in make():
        for items, targets in content(batch):
            for item, target in zip(items, targets, strict=True):
                assert target in (-1, item + 1)  # items are numbered along the log
                seen += [target] * (target >= 0)
    assert len(seen) == len(set(seen)) == sum(length - 1 for length in LENGTHS)


def test_each_step_has_its_share_of_the_targets() -> None:
    """Windows of one target each: the steps differ by one at most, and none is empty where there are as many as windows."""
    for windows, per_step in ((40, 2), (40, 8), (41, 8)):
        offsets = np.arange(0, 2 * windows + 1, 2)
        loader = TrainingLoader(np.zeros(2 * windows, np.int32), offsets, 1, per_step, None, 0)
        sizes = [len(batch.sequences.offsets) - 1 for batch in loader]
        assert sum(sizes) == windows
        assert max(sizes) - min(sizes) <= 1


def test_positions_count_from_the_start_of_the_window_and_rows_come_by_length() -> None:
    for batch in make():
        offsets = batch.sequences.offsets
        lengths = (offsets[1:] - offsets[:-1]).tolist()
        assert lengths == sorted(lengths)
        expected = [position for length in lengths for position in range(length)]
        assert batch.sequences.positions.tolist() == expected


def test_epochs_differ_and_seeds_repeat() -> None:
    loader = make()
    epochs = [[content(batch) for batch in loader] for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert [content(batch) for batch in make()] == epochs[0]
    assert [content(batch) for batch in make(seed=1)] != epochs[0]


@pytest.mark.parametrize("taken", [0, 1, 3, 7])
def test_goes_on_where_its_state_was_taken(taken: int) -> None:
    loader = make(stride=3)
    steps = len(loader)
    unbroken = [content(batch) for _ in range(3) for batch in loader]
    loader, stream = make(stride=3), []
    while len(stream) < taken:
        for batch in loader:
            stream.append(content(batch))
            if len(stream) == taken:
                break
    resumed = make(stride=3)
    resumed.load_state_dict(loader.state_dict())
    while len(stream) < 3 * steps:
        stream += [content(batch) for batch in resumed]
    assert stream == unbroken


def test_processes_share_a_step_and_their_scaled_losses_average_to_its_mean() -> None:
    whole = make()
    parts = [make() for _ in range(3)]
    for rank, part in enumerate(parts):
        part.shard(rank, 3)
    for batch, *shares in zip(whole, *parts, strict=True):
        rows = sorted(row for share in shares if share.loss_scale for row in content(share))
        assert rows == sorted(content(batch))
        trained = [share for share in shares if bool((share.sequences.targets >= 0).any())]
        assert sum(share.loss_scale == 0 for share in shares) == len(shares) - len(trained)
        scaled = sum(mean_target(share) * share.loss_scale for share in trained) / 3
        assert scaled == pytest.approx(mean_target(batch))
        assert batch.loss_scale == 1
        assert {share.step for share in shares} == {batch.step}


def excluded(batch: TrainingBatch) -> dict[int, list[int]]:
    """Target -> the items that are left out of its softmax, sorted; here an item is in the log once."""
    assert batch.sequences.excluded is not None
    found: dict[int, list[int]] = {int(target): [] for target in batch.sequences.targets if target >= 0}
    for position, item in batch.sequences.excluded.tolist():
        found[int(batch.sequences.targets[position])].append(item)
    return {target: sorted(items) for target, items in found.items()}


@pytest.mark.parametrize("stride", [None, 3])
def test_the_items_that_a_position_reads_can_be_left_out_of_its_softmax(stride: int | None) -> None:
    plain = [content(batch) for batch in make(stride)]
    for batch, rows in zip(make(stride, exclude_history=True), plain, strict=True):
        assert content(batch) == rows
        expected = {}
        for items, targets in rows:
            for position, target in enumerate(targets):
                if target >= 0:
                    expected[target] = items[: position + 1]
        assert excluded(batch) == expected
    assert all(batch.sequences.excluded is None for batch in make(stride))


def test_processes_share_the_items_that_are_left_out() -> None:
    whole, parts = make(exclude_history=True), [make(exclude_history=True) for _ in range(3)]
    for rank, part in enumerate(parts):
        part.shard(rank, 3)
    for batch, *shares in zip(whole, *parts, strict=True):
        joined = {target: items for share in shares for target, items in excluded(share).items()}
        assert joined == excluded(batch)


def mean_target(batch: TrainingBatch) -> float:
    targets = batch.sequences.targets
    return float(targets[targets >= 0].double().mean())


def test_steps_too_small_for_one_window_are_refused() -> None:
    offsets = np.array([0, 9], dtype=np.int64)
    with pytest.raises(SettingsError, match=r"takes 10 targets; it must be at least 2 \* max_length = 16"):
        TrainingLoader(np.zeros(9, np.int32), offsets, 8, 10, None, 0)
