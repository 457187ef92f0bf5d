"""Splits written in blocks equal the ones computed whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linguarec.data import splitting
from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import (
    EXCLUDED,
    TEST,
    TRAIN,
    VALID,
    evaluation_cases,
    global_temporal,
    held_out_items,
    leave_one_out,
)
from linguarec.data.splitting import (
    SplitSettings,
    add_temporal_split,
    temporal_cuts,
    user_blocks,
    window_cuts,
    write_splits,
)
from linguarec.errors import DataFormatError, SettingsError


def test_blocks_equal_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "BLOCK", 50)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    sequences = Ragged(rng.integers(0, 40, offsets[-1]).astype(np.int32), offsets)
    times = rng.integers(10**9, 10**9 + 5000, offsets[-1])
    (tmp_path / "sequences").mkdir()
    for name, values in (("items", sequences.values), ("offsets", offsets), ("timestamps", times)):
        np.save(tmp_path / "sequences" / f"{name}.npy", values)
    write_splits(tmp_path, 40, SplitSettings(held_out_share=0.2, seed=3))
    for name, expected in (
        ("leave-one-out", leave_one_out(offsets)),
        ("held-out-items", held_out_items(sequences, 40, 0.2, 3)),
        ("temporal", global_temporal(times)),
    ):
        roles = np.load(tmp_path / "splits" / f"{name}.npy")
        assert roles.dtype == np.int8
        np.testing.assert_array_equal(roles, expected)


def test_held_out_items_are_never_trained_on() -> None:
    rng = np.random.default_rng(1)
    sequences = Ragged.from_lists([rng.integers(0, 30, rng.integers(1, 9)).tolist() for _ in range(100)])
    roles = held_out_items(sequences, 30, 0.1, 0)
    held = set(sequences.values[(roles == TEST) | (roles == EXCLUDED)].tolist())
    assert held
    assert held.isdisjoint(sequences.values[(roles == TRAIN) | (roles == VALID)].tolist())
    # Not in a history by which the best epoch is chosen either, even where they came before its target.
    valid, test = (evaluation_cases(sequences, roles, part) for part in ("valid", "test"))
    assert held.isdisjoint(valid.histories.values.tolist())
    assert held.isdisjoint(valid.targets.tolist())
    assert held.issuperset(test.targets.tolist())
    assert held.isdisjoint(test.histories.values.tolist())


@pytest.mark.parametrize("times", [[5], [1, 1, 1, 1], list(range(100)), [3, 1, 2] * 7])
def test_temporal_cuts_are_numpys_quantiles(times: list[int]) -> None:
    values = np.array(times, dtype=np.int64)
    expected = np.quantile(values, [0.8, 0.9], method="higher")
    assert temporal_cuts(values, 0.1, 0.1) == tuple(expected)


def test_sequences_without_their_last_value() -> None:
    lists = [[], [3, 4, 5], [6], [], [7, 8], []]
    shorter = Ragged.from_lists(lists).without_last()
    assert [shorter[row].tolist() for row in range(len(shorter))] == [one[:-1] for one in lists]
    assert len(Ragged.from_lists([]).without_last()) == 0


def test_user_blocks_cover_all_users_once() -> None:
    offsets = np.array([0, 3, 3, 10, 11, 30], dtype=np.int64)
    blocks = list(user_blocks(offsets, 5))
    assert [user for first, last in blocks for user in range(first, last)] == [0, 1, 2, 3, 4]


def test_windows_of_time_follow_each_other(make_dataset: Any) -> None:
    times = np.random.default_rng(0).permutation(1_000)
    shop = make_dataset([[0, 1, 2, 3, 4]] * 200)
    np.save(shop.path / "sequences" / "timestamps.npy", times)
    windows = window_cuts(shop, 3, SplitSettings())
    names = [add_temporal_split(shop, cuts) for cuts in windows]
    assert names[-1] == f"temporal-{windows[-1].valid}-{windows[-1].test}" and len(set(names)) == 3
    roles = [np.array(shop.roles(name)) for name in names]
    assert np.array_equal(roles[-1], global_temporal(times))
    for earlier, later, number in ((roles[0], roles[1], 3), (roles[1], roles[2], 2)):
        assert times[earlier == TEST].max() < times[later == TEST].min()
        assert (
            times[earlier == EXCLUDED].min() == times[later == TEST].min()
        )  # the next window begins where this one ends
        assert np.count_nonzero(earlier == EXCLUDED) == pytest.approx(100 * (number - 1), abs=2)
    for each in roles:
        assert np.count_nonzero(each == TEST) == pytest.approx(100, abs=2)
        assert np.count_nonzero(each == VALID) == pytest.approx(100, abs=2)
        assert times[each == TRAIN].max() < times[each == VALID].min()
        assert times[each == VALID].max() < times[each == TEST].min()
    file = shop.path / "splits" / f"{names[0]}.npy"
    before = file.stat().st_mtime_ns
    add_temporal_split(shop, windows[0])
    assert file.stat().st_mtime_ns == before  # it is there already
    for stale in (roles[0][:-1], 1 - roles[0]):  # of a folder that was replaced by another one
        np.save(file, stale)
        add_temporal_split(shop, windows[0])
        assert np.array_equal(PreparedDataset.open(shop.path).roles(names[0]), roles[0])


def test_windows_that_cannot_be(make_dataset: Any) -> None:
    shop = make_dataset([[0, 1, 2, 3, 4]] * 20)
    with pytest.raises(DataFormatError, match="has no times of its interactions, only their order"):
        window_cuts(shop, 2, SplitSettings())
    np.save(shop.path / "sequences" / "timestamps.npy", np.repeat([1, 2], 50))
    again = PreparedDataset.open(shop.path)
    with pytest.raises(SettingsError, match="--windows is 7; it must be between 1 and 6"):
        window_cuts(again, 7, SplitSettings())
    with pytest.raises(DataFormatError, match="too few different times for 2 windows"):
        window_cuts(again, 2, SplitSettings())
