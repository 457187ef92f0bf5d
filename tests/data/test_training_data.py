"""What a fine-tuning reads of a prepared folder."""

from typing import Any

import numpy as np
import pytest

from linguarec import load_dataset
from linguarec.data.training_data import TrainingData, log_read
from linguarec.errors import DataFormatError, SettingsError


def test_some_users_validate_and_all_train(make_dataset: Any) -> None:
    dataset = make_dataset([[user % 7, 1, 2, user % 5] for user in range(40)], num_items=7)

    def read(users: float, valid_users: int, seed: int = 0) -> TrainingData:
        return TrainingData.of(dataset, "leave-one-out", users, valid_users, seed, 50)

    everyone, some = read(1.0, 0), read(1.0, 10)
    assert (len(everyone.valid), len(some.valid)) == (40, 10)
    assert len(some.sequences) == 40
    rows = np.searchsorted(everyone.valid.users, some.valid.users)
    np.testing.assert_array_equal(everyone.valid.targets[rows], some.valid.targets)
    np.testing.assert_array_equal(read(1.0, 10).valid.users, some.valid.users)
    assert read(1.0, 10, seed=1).valid.users.tolist() != some.valid.users.tolist()
    assert len(read(1.0, 100).valid) == 40
    half = read(0.5, 10)
    assert len(half.sequences) == 20
    assert len(half.valid) == 10


def test_the_folders_of_a_training_are_logged_once(make_dataset: Any, caplog: pytest.LogCaptureFixture) -> None:
    one, two = make_dataset([[0, 1, 2]] * 1234, name="one"), make_dataset([[0, 1, 2]] * 2, name="two")
    caplog.set_level("INFO")
    for folders in ([one], [one, two], [one]):
        log_read(folders)
    first = f"reads {one.path} (1,234 users, 3 items, 3,702 interactions)"
    assert caplog.messages == [first, f"{first}, {two.path} (2 users, 3 items, 6 interactions)"]


def test_nothing_to_learn_from_or_to_stop_by_is_refused(make_dataset: Any) -> None:
    dataset = make_dataset([[0, 1, 2, 3], [3, 2, 1, 0]])
    split, file = dataset.roles(), dataset.path / "splits" / "leave-one-out.npy"
    assert split.tolist() == [0, 0, 1, 2] * 2
    for roles, message in (
        ([0, 0, 0, 2], "has no valid target to stop the training by"),
        ([0, 1, 1, 2], "two training items"),
    ):
        np.save(file, np.array(roles * 2, dtype=split.dtype))
        with pytest.raises(DataFormatError, match=rf"{dataset.path}: split 'leave-one-out' .*{message}"):
            TrainingData.of(dataset, "leave-one-out", 1.0, 0, 0, 50)


def test_timestamps_are_those_of_the_training_interactions(make_dataset: Any) -> None:
    dataset = make_dataset([[user % 7, 1, 2, user % 5] for user in range(40)], num_items=7)
    with pytest.raises(SettingsError, match=rf"--ties shuffled: {dataset.path} has no timestamps"):
        TrainingData.of(dataset, "leave-one-out", 1.0, 0, 0, 50, times=True)
    np.save(dataset.path / "sequences" / "timestamps.npy", np.arange(160))
    dataset = load_dataset(dataset.path)
    for users in (1.0, 0.5):
        read = TrainingData.of(dataset, "leave-one-out", users, 0, 0, 50, times=True)
        assert read.times is not None
        np.testing.assert_array_equal(read.times.offsets, read.sequences.offsets)
        np.testing.assert_array_equal(np.asarray(dataset.sequences.values)[read.times.values], read.sequences.values)
        assert TrainingData.of(dataset, "leave-one-out", users, 0, 0, 50).times is None
