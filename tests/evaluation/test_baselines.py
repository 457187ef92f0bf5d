import numpy as np
import pytest
import torch

from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.baselines import chance, popularity
from linguarec.evaluation.case_scores import Part
from linguarec.evaluation.stacking import fit_repeats
from linguarec.ranking.dense import DenseRanker

COUNTS = np.array([3, 0, 5, 3, 0, 1, 8])


@pytest.fixture
def cases():
    rng = np.random.default_rng(0)
    histories = Ragged.from_lists([rng.integers(0, 7, size=rng.integers(1, 6)).tolist() for _ in range(60)])
    return EvaluationCases(histories, rng.integers(0, 7, size=60).astype(np.int32), np.arange(60))


@pytest.mark.parametrize("protocol", ["kept", "excluded"])
def test_popularity_ranks_as_a_model_whose_scores_are_the_counts(cases, protocol):
    found = popularity(cases, COUNTS)[protocol]
    expected = DenseRanker(torch.from_numpy(COUNTS).float().unsqueeze(1)).ranks(
        torch.ones(60, 1), cases.targets, cases.histories if protocol == "excluded" else None
    )
    assert found.ranks.greater.tolist() == expected.greater.tolist()
    assert found.ranks.ties.tolist() == expected.ties.tolist()


def test_chance_is_k_in_n(cases):
    means = chance(cases, num_items=7)["kept"].means((3,))
    assert means["recall@3"] == pytest.approx(3 / 7)
    assert means["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 8)) / 7)


def test_chance_without_the_history():
    some = EvaluationCases(Ragged.from_lists([[0, 0, 1, 2]]), np.array([2], dtype=np.int32), np.array([0]))
    assert chance(some, num_items=7)["excluded"].ranks.ties.tolist() == [5]  # 0 and 1 are out, 2 is the target


def test_a_repeat_term_is_fitted_where_there_are_valid_cases(cases):
    """Users take the last item again: nothing but the repeat term can tell."""
    again = EvaluationCases(cases.histories, cases.histories.values[cases.histories.offsets[1:] - 1], cases.users)
    found = chance(again, 7, again)
    assert found["learned"].mean("recall@1") > 0.95
    assert found["kept"].mean("recall@1") == pytest.approx(1 / 7)
    assert set(popularity(again, COUNTS)) == {"kept", "excluded"}


def test_popularity_with_a_repeat_term_ranks_as_a_model_with_it(cases):
    found = popularity(cases, COUNTS, cases)["learned"]
    part = Part.without_history(np.log1p(COUNTS))
    term = fit_repeats(part, cases)
    assert term is not None and len(set(term.values)) > 2
    expected = part.rank(cases, term)["learned"]
    assert found.ranks.greater.tolist() == expected.ranks.greater.tolist()
    assert found.ranks.ties.tolist() == expected.ranks.ties.tolist()
