import numpy as np
import pytest

from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.slices import by_history_length, by_popularity, by_target, slices, training_counts


def cases(targets, lengths=None):
    lengths = [1] * len(targets) if lengths is None else lengths
    histories = Ragged.from_lists([[0] * length for length in lengths])
    return EvaluationCases(histories, np.array(targets, dtype=np.int32), np.arange(len(targets)))


def members(found):
    return {part.name: np.flatnonzero(part.mask).tolist() for part in found}


def test_training_counts():
    assert training_counts(np.array([2, 0, 2], dtype=np.int32), 4).tolist() == [1, 0, 2, 0]


def test_new_and_known_targets():
    assert members(by_target(cases([0, 1, 2]), np.array([3, 0, 1]))) == {"new (not in training)": [1], "known": [0, 2]}


def test_popularity_parts_the_known_targets_and_never_equals():
    counts = np.array([0, 1, 1, 2, 5, 5, 9, 40])
    found = members(by_popularity(cases([0, 1, 2, 3, 4, 5, 6, 7, 1]), counts))
    assert found == {"1": [1, 2, 8], "2": [3], "3–5": [4, 5], "6–40": [6, 7]}


def test_popularity_where_all_are_equal_is_one_part():
    assert members(by_popularity(cases([0, 1]), np.array([4, 4]))) == {"1–4": [0, 1]}
    assert by_popularity(cases([0]), np.array([0])) == []


def test_history_lengths():
    found = members(by_history_length(cases([0] * 8, lengths=[1, 2, 3, 4, 5, 16, 17, 90])))
    assert found == {
        "1": [0],
        "2": [1],
        "3–4": [2, 3],
        "5–8": [4],
        "9–16": [5],
        "17–32": [6],
        "33 or more": [7],
    }


@pytest.mark.parametrize("group", ["target", "popularity of the target", "history length"])
def test_the_parts_of_a_group_hold_each_case_once(group):
    rng = np.random.default_rng(0)
    some = cases(rng.integers(0, 50, size=400).tolist(), lengths=rng.integers(1, 80, size=400).tolist())
    counts = rng.zipf(1.4, size=50) - 1
    held = sum(part.mask.astype(int) for part in slices(some, counts) if part.group == group)
    expected = (counts[some.targets] > 0).astype(int) if group.startswith("popularity") else np.ones(400, dtype=int)
    assert held.tolist() == expected.tolist()


def test_empty_slices_are_left_out():
    assert [part.name for part in slices(cases([0]), np.array([2]))] == ["known", "1–2", "1"]
