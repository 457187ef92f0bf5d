import math

import numpy as np
import pytest

from linguarec.evaluation.metrics import mrr, ndcg, per_case, per_user, recall
from linguarec.ranking.ranks import TargetRanks


def ranks(greater, ties=None):
    greater = np.array(greater, dtype=np.int64)
    return TargetRanks(greater, np.ones_like(greater) if ties is None else np.array(ties, dtype=np.int64))


def test_without_ties():
    found = ranks([0, 1, 9, 10])
    assert recall(found, 10).tolist() == [1, 1, 1, 0]
    assert np.allclose(ndcg(found, 10), [1, 1 / math.log2(3), 1 / math.log2(11), 0])
    assert np.allclose(mrr(found), [1, 1 / 2, 1 / 10, 1 / 11])


def test_ties_give_the_mean_over_the_tied_ranks():
    found = ranks([8], ties=[4])  # ranks 9, 10, 11, 12
    assert recall(found, 10)[0] == pytest.approx(2 / 4)
    assert ndcg(found, 10)[0] == pytest.approx((1 / math.log2(10) + 1 / math.log2(11)) / 4)
    assert mrr(found)[0] == pytest.approx((1 / 9 + 1 / 10 + 1 / 11 + 1 / 12) / 4)


def test_equals_a_loop_over_the_tied_ranks():
    rng = np.random.default_rng(0)
    found = ranks(rng.integers(0, 40, size=200), ties=rng.integers(1, 30, size=200))
    for k in (1, 5, 20, 100):
        for q in range(200):
            tied = range(found.greater[q] + 1, found.greater[q] + found.ties[q] + 1)
            assert recall(found, k)[q] == pytest.approx(np.mean([rank <= k for rank in tied]))
            assert ndcg(found, k)[q] == pytest.approx(np.mean([(rank <= k) / math.log2(rank + 1) for rank in tied]))
    loop = [np.mean([1 / r for r in range(g + 1, g + t + 1)]) for g, t in zip(found.greater, found.ties, strict=True)]
    assert np.allclose(mrr(found), loop)


def test_equals_ranx_on_the_same_ranks(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes most of a minute, computing no time
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(3)
    greater = rng.integers(0, 60, size=100)
    # The target of query q is document "t"; the documents above it score more, forty below it score less.
    run = {
        f"q{q}": {f"d{i}": 1_000.0 - i for i in range(above)} | {"t": 500.0} | {f"e{i}": 100.0 - i for i in range(40)}
        for q, above in enumerate(greater.tolist())
    }
    judged = ranx.Qrels({f"q{q}": {"t": 1} for q in range(100)})
    names = {
        "recall@10": "recall@10",
        "ndcg@10": "ndcg@10",
        "recall@50": "recall@50",
        "ndcg@50": "ndcg@50",
        "mrr": "mrr",
    }
    theirs = ranx.evaluate(judged, ranx.Run(run), list(names.values()))
    ours = per_case(ranks(greater), (10, 50))
    for name, their_name in names.items():
        assert ours[name].mean() == pytest.approx(theirs[their_name], abs=1e-9), name


def test_names_and_order_of_the_metrics():
    assert list(per_case(ranks([0]), (10, 50))) == ["recall@10", "ndcg@10", "recall@50", "ndcg@50", "mrr"]


def test_a_user_with_many_targets_weighs_as_one():
    users, values = per_user(np.array([1.0, 0.0, 0.0, 1.0]), np.array([7, 3, 7, 3]))
    assert users.tolist() == [3, 7]
    assert values.tolist() == [0.5, 0.5]


def test_no_cases():
    assert mrr(ranks([])).tolist() == []
    assert recall(ranks([]), 10).tolist() == []


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="ties at least with itself"):
        ranks([3], ties=[0])
