"""Measures of lists against values computed by hand."""

import math

import numpy as np
import pytest

from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.case_scores import Part
from linguarec.evaluation.evaluate import EvaluationResult, ranked_by_protocol
from linguarec.evaluation.lists import (
    ListedItems,
    Lists,
    gini,
    list_diversity,
    measured,
    measures_table,
    popular_lists,
    systems_measures_table,
)
from linguarec.ranking.ranks import TargetRanks
from linguarec.ranking.repeats import RepeatTerm


def result_of(lists, users=None):
    count = len(lists)
    ones = np.ones(count, dtype=np.int64)
    rows = np.asarray(lists, dtype=np.int32)
    owner = np.arange(count) if users is None else np.asarray(users)
    return EvaluationResult(TargetRanks(0 * ones, ones), np.arange(count), owner, rows)


def cases_of(histories, targets):
    return EvaluationCases(Ragged.from_lists(histories), np.asarray(targets, np.int32), np.arange(len(targets)))


def test_measures_of_two_lists_by_hand():
    # Four items that occur 5, 1, 1 and 0 times: with one more each, 6, 2, 2 and 1 of 11.
    items = ListedItems(np.array([5, 1, 1, 0]), np.array([[1.0, 0], [0, 2], [3, 3], [1, 0]]), "enc")
    found = items.measures(result_of([[0, 1], [0, 2]]))
    bits = -math.log2(6 / 11), -math.log2(2 / 11)
    assert found == pytest.approx(
        {
            "coverage@2": 3 / 4,
            "novelty@2": (bits[0] + bits[1]) / 2,
            # cosines of the pairs: 0 of (0, 1), 1/sqrt(2) of (0, 2)
            "diversity@2": (1 + 1 - 1 / math.sqrt(2)) / 2,
            # percentiles: one item above three others: 3.5/4; two that tie above one: (1 + 3) / 2 / 4
            "popularity@2": (7 / 8 + 1 / 2) / 2,
            # exposures 0, 1, 1, 2: sum of (2j - n - 1) x = -3*0 - 1*1 + 1*1 + 3*2 = 6 over 4 * 4
            "gini@2": 6 / 16,
        }
    )
    assert list(found) == ["coverage@2", "novelty@2", "diversity@2", "popularity@2", "gini@2"]


def test_a_random_item_has_the_percentile_one_half():
    counts = np.random.default_rng(0).poisson(2.0, size=31)
    assert ListedItems(counts).percentile.mean() == pytest.approx(0.5)
    assert ListedItems(np.zeros(5, np.int64)).percentile == pytest.approx(np.full(5, 0.5))
    assert (2.0 ** -ListedItems(counts).information).sum() == pytest.approx(1.0)  # the smoothed shares sum to 1


def test_gini_of_known_distributions():
    assert gini(np.array([3, 3, 3])) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(1 - 1 / 4)
    assert gini(np.array([1, 2, 3, 4])) == pytest.approx(0.25)
    assert gini(np.zeros(3)) == 0.0


def test_diversity_is_the_mean_over_all_pairs_and_of_items_with_a_vector():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20, 6)).astype(np.float32)
    rows = np.array([rng.permutation(20)[:7] for _ in range(5)])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [1 - np.mean([units[a] @ units[b] for i, a in enumerate(each) for b in each[i + 1 :]]) for each in rows]
    assert list_diversity(rows, vectors) == pytest.approx(expected, abs=1e-6)
    vectors[rows[0, 2]] = 0  # an item without a text
    without = np.delete(rows[0], 2)
    expected = 1 - np.mean([units[a] @ units[b] for i, a in enumerate(without) for b in without[i + 1 :]])
    assert list_diversity(rows[:1], vectors) == pytest.approx([expected], abs=1e-6)
    short = np.array([[0, 1, -1], [0, -1, -1], [-1, -1, -1]])
    found = list_diversity(short, vectors)
    assert np.isnan(found).tolist() == [False, True, True]
    assert list_diversity(np.array([[3, 3]]), vectors) == pytest.approx([0.0], abs=1e-6)


def test_users_count_once_and_short_lists_by_what_they_hold():
    items = ListedItems(np.array([3, 0]))
    found = items.measures(result_of([[0, -1], [0, -1], [1, -1]], users=[4, 4, 9]))
    assert found["novelty@2"] == pytest.approx((-math.log2(4 / 5) - math.log2(1 / 5)) / 2)
    assert found["popularity@2"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert "diversity@2" not in found  # no vectors, so nothing is said
    assert items.measures(result_of([[-1, -1]])) == {}


def test_popular_lists_leave_out_the_history_and_fill_up():
    counts = np.array([1, 9, 5, 5, 0])
    found = popular_lists(cases_of([[1, 1, 4], [2, 1, 0, 3], [4]], [0, 4, 0]), counts, k=3)
    assert found["kept"].tolist() == [[1, 2, 3]] * 3
    assert found["excluded"].tolist() == [[2, 3, 0], [4, -1, -1], [1, 2, 3]]


def test_popular_lists_are_those_of_the_ranker():
    rng = np.random.default_rng(2)
    counts = rng.permutation(40)
    histories = [rng.integers(0, 40, size=size).tolist() for size in rng.integers(1, 30, size=50)]
    cases = cases_of(histories, rng.integers(0, 40, size=50))
    part = Part.without_history(counts.astype(float))
    expected = ranked_by_protocol(part.queries(cases), part.ranker, cases, best=10)
    for protocol, rows in popular_lists(cases, counts).items():
        assert rows.tolist() == expected[protocol].best.tolist()


def test_lists_of_each_protocol_and_their_order():
    """The lists belong to their cases, whatever order the queries come in, and hold what each protocol allows."""
    scores = np.array([0.5, 0.4, 0.3, 0.2, 0.1])
    cases = cases_of([[0, 1], [4]], [2, 0])
    part = Part.without_history(scores)

    def backwards():
        for index in (np.array([1]), np.array([0])):
            yield index, next(iter(part.queries(cases.select(index))))[1]

    term = RepeatTerm((1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    found = ranked_by_protocol(backwards(), part.ranker, cases, term, best=3)
    assert found["kept"].best.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found["excluded"].best.tolist() == [[2, 3, 4], [0, 1, 2]]
    assert found["learned"].best.tolist() == [[1, 0, 2], [4, 0, 1]]
    assert found["kept"].select(np.array([False, True])).best.tolist() == [[0, 1, 2]]
    assert ranked_by_protocol(backwards(), part.ranker, cases, term)["kept"].best is None


def test_tables_and_medians_over_seeds():
    items = ListedItems(np.array([5, 1, 1, 0]), lacking="shop has no text vectors")
    seeds = [measured({"model": {"kept": result_of(lists)}}, items) for lists in ([[0, 1]], [[0, 2]], [[3, 3]])]
    lists = Lists.of([*seeds, measured({"other": {"excluded": result_of([[3, 2]])}}, items)], items)
    assert lists.seeds["kept"]["model"]["coverage@2"] == [0.5, 0.5, 0.25]
    assert lists.medians["kept"]["model"]["coverage@2"] == 0.5
    told = lists.to_dict()
    assert told["lists"]["kept"]["model"]["coverage@2"] == {"median": 0.5, "seeds": [0.5, 0.5, 0.25]}
    assert told["no_diversity"] == "shop has no text vectors" and "list_vectors" not in told
    table = systems_measures_table(lists.medians)
    assert table.columns == ["of the lists", "coverage@2", "novelty@2", "popularity@2", "gini@2"]
    assert [row[:2] for row in table.rows] == [["model, kept", "0.5000"], ["other, excluded", "0.5000"]]
    by_measure = measures_table(lists.medians, ["model", "other"])
    assert by_measure.rows[:2] == [["coverage@2, kept", "0.5000", ""], ["coverage@2, excluded", "", "0.5000"]]
