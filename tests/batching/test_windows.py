"""Every target is trained exactly once, with the history that its kind of window promises."""

import numpy as np
import pytest

from linguarec.batching.windows import history_pairs, training_windows

LENGTHS = [0, 1, 2, 5, 6, 7, 23, 40]
MAX_LENGTH = 5


def targets_with_history(stride: int | None, seed: int = 0) -> dict[int, int]:
    """Flat position of each trained target -> length of the history it is trained with; fails on a double."""
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    windows = training_windows(offsets, MAX_LENGTH, stride, np.random.default_rng(seed))
    found: dict[int, int] = {}
    for user, start, stop, first_target in zip(
        windows.user, windows.start, windows.stop, windows.first_target, strict=True
    ):
        assert offsets[user] <= start < stop < offsets[user + 1], "reads within the user, and leaves the last item out"
        assert stop - start <= MAX_LENGTH
        for target in range(first_target, stop + 1):
            assert target not in found
            found[int(target)] = int(target - start)
    assert sum(windows.num_targets) == len(found)
    return found


def all_targets() -> dict[int, int]:
    """Flat position of every second to last item -> number of items before it."""
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    return {
        int(first) + place: place for first, length in zip(offsets, LENGTHS, strict=False) for place in range(1, length)
    }


def test_exact_windows_are_the_published_rows() -> None:
    expected = {target: min(before, MAX_LENGTH) for target, before in all_targets().items()}
    assert targets_with_history(None) == expected


@pytest.mark.parametrize("stride", [1, 2, 4, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_strided_windows_cover_every_target_once_with_long_histories(stride: int, seed: int) -> None:
    found = targets_with_history(stride, seed)
    assert found.keys() == all_targets().keys()
    for target, before in all_targets().items():
        least = before if before <= MAX_LENGTH else MAX_LENGTH - stride + 1
        assert least <= found[target] <= min(before, MAX_LENGTH)


def test_the_phase_of_strided_windows_changes() -> None:
    histories = [targets_with_history(4, seed) for seed in range(20)]
    target = max(histories[0]) - 10  # in the middle of the longest sequence
    assert {history[target] for history in histories} == {2, 3, 4, 5}


def test_the_history_of_a_target_is_what_its_window_holds_up_to_it() -> None:
    """Two windows, 4 9 4 and 7 4; the second position of the first one has no target."""
    items, positions = np.array([4, 9, 4, 7, 4]), np.array([0, 1, 2, 0, 1])
    targets = np.array([9, -1, 1, 4, 7])
    pairs = history_pairs(items, positions, targets)
    assert sorted(pairs.tolist()) == [[0, 4], [2, 4], [2, 4], [2, 9], [3, 7], [4, 4], [4, 7]]
    assert history_pairs(items, positions, np.full(5, -1)).shape == (0, 2)
