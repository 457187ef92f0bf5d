"""What a fine-tuning reads of a prepared folder."""

from typing import Any

import numpy as np

from linguarec.recipes.training_data import TrainingData


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
