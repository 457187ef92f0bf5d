"""Ranking by cosine follows the changes of a ranker, and measures only what was added."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linguarec.ranking import cosines
from linguarec.ranking.cosines import Cosines
from linguarec.ranking.dense import DenseRanker


def keys_of(number: int, seed: int, normed: bool) -> Tensor:
    keys = torch.randn(number, 7, generator=torch.Generator().manual_seed(seed))
    return F.normalize(keys, dim=-1) / 0.07 if normed else keys


def assert_same(found: Cosines, expected: Cosines) -> None:
    assert (found.ranker is found.dense) == (expected.ranker is expected.dense)
    assert torch.equal(found.ranker.keys, expected.ranker.keys)
    assert np.array_equal(found.ranker.removed, expected.ranker.removed)
    assert (found.length, found.shortest, found.longest) == (expected.length, expected.shortest, expected.longest)
    queries = F.normalize(torch.randn(5, 7, generator=torch.Generator().manual_seed(9)), dim=-1)
    one, other = (each.ranker.top_k(queries / each.length, 6) for each in (found, expected))
    assert np.array_equal(one.rows, other.rows) and np.array_equal(one.scores, other.scores)


@pytest.mark.parametrize("normed", [True, False], ids=["one length", "lengths"])
def test_changes_one_by_one_are_those_of_a_new_start(normed: bool) -> None:
    ranker = DenseRanker(keys_of(40, 0, normed))
    carried = Cosines.of(ranker)
    changes: list[Callable[[DenseRanker], DenseRanker]] = [
        lambda now: now.with_added(keys_of(3, 1, normed)),
        lambda now: now.with_removed(np.array([2, 41])),
        lambda now: now.with_removed(np.array([5])).with_added(keys_of(1, 2, normed)),
        lambda now: now.with_added(keys_of(2_000, 3, normed)),  # more than a buffer holds
        lambda now: now,
    ]
    for change in changes:
        ranker = change(ranker)
        after = carried.after(ranker)
        assert after is not None
        assert_same(after, Cosines.of(ranker))
        carried = after


def test_only_the_added_keys_are_measured_and_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    lengths = cosines._lengths
    monkeypatch.setattr(cosines, "_lengths", lambda keys: measured.append(len(keys)) or lengths(keys))
    for normed in (True, False):
        ranker = DenseRanker(keys_of(40, 0, normed))
        before = Cosines.of(ranker)
        after = before.after(ranker.with_removed(np.array([3])).with_added(keys_of(2, 1, normed)))
        assert after is not None
        assert after.ranker.keys_of(torch.arange(40)).equal(before.ranker.keys_of(torch.arange(40)))
        assert after.ranker.extends(before.ranker)  # the same tensors, not equal ones
        assert after.after(after.dense.with_removed(np.array([7]))) is not None
    assert measured == [40, 2, 40, 2]


def test_the_first_key_of_another_length_asks_for_a_new_start() -> None:
    ranker = DenseRanker(keys_of(40, 0, True))
    carried = Cosines.of(ranker)
    other = ranker.with_added(torch.zeros(1, 7))
    assert carried.after(other) is None
    again = Cosines.of(other)
    assert again.length == 1.0
    after = again.after(other.with_added(keys_of(4, 1, True)))
    assert after is not None
    assert_same(after, Cosines.of(after.dense))


def test_another_ranker_is_no_successor() -> None:
    ranker = DenseRanker(keys_of(40, 0, False)).with_added(keys_of(2, 1, False))
    one, other = ranker.with_added(keys_of(3, 2, False)), ranker.with_added(keys_of(4, 3, False))
    assert one.extends(ranker) and other.extends(ranker)
    assert not other.extends(one) and not ranker.extends(one)
    assert not DenseRanker(ranker.keys).extends(ranker)
    assert Cosines.of(one).after(other) is None
    empty = DenseRanker(torch.zeros(0, 7))
    assert Cosines.of(empty).after(empty.with_added(keys_of(3, 0, True))) is None
