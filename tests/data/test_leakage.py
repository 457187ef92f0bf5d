"""Training interactions that are later than the test targets, counted by hand."""

import numpy as np
import pytest

from linguarec.data.leakage import Leakage
from linguarec.data.splits import global_temporal

TIMES = [1, 2, 3, 10, 4, 5, 6, 7, 8, 20, 30]


@pytest.fixture
def dataset(make_dataset):
    """u: train 1, 2, valid 3, test 10; v: train 4, 5, 6, 7 and valid 8, test 20, but one more user trains until 30."""
    shop = make_dataset([[0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0]], name="times")
    np.save(shop.path / "sequences" / "timestamps.npy", np.array(TIMES))
    return shop


def test_of_leave_one_out(dataset):
    found = Leakage.of(dataset, dataset.roles())
    # Training at 1, 2, 4, 5, 6, 7, 30: one of seven is later than each of the targets at 10 and 20.
    assert (found.targets, found.exposed, found.training) == (2, 2, 7)
    assert found.share == pytest.approx(1 / 7)
    assert "14.3% of the training interactions are later than a test target (mean over 2 targets, 2" in found.told(
        "loo"
    )


def test_a_split_by_time_has_none(dataset):
    found = Leakage.of(dataset, global_temporal(np.array(TIMES), 0.2, 0.2))
    assert (found.exposed, found.share) == (0, 0.0)
    assert found.told("temporal") == ""


def test_equal_times_are_not_later(make_dataset):
    shop = make_dataset([[0, 1, 2], [0, 1, 2]], name="equal")
    np.save(shop.path / "sequences" / "timestamps.npy", np.array([1, 2, 5, 5, 6, 7]))
    found = Leakage.of(shop, shop.roles())
    assert (found.exposed, found.share) == (0, 0.0)  # training at 1 and 5, targets at 5 and 7


def test_without_times_nothing_is_said(make_dataset):
    shop = make_dataset([[0, 1, 2]], name="order")
    assert Leakage.of(shop, shop.roles()) is None
