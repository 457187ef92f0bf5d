"""Splits written in blocks equal the ones computed whole."""

from pathlib import Path

import numpy as np
import pytest

from linguarec.data import splitting
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
from linguarec.data.splitting import SplitSettings, temporal_cuts, user_blocks, write_splits


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
