import numpy as np
import pytest

from linguarec.evaluation.comparison import (
    Comparison,
    Costs,
    compared,
    differences,
    differences_table,
    median_of,
    pooled,
    protocols_table,
)
from linguarec.evaluation.evaluate import EvaluationResult
from linguarec.evaluation.published import PublishedValue
from linguarec.evaluation.slices import Slice
from linguarec.ranking.ranks import TargetRanks


def result(greater):
    greater = np.array(greater, dtype=np.int64)
    return EvaluationResult(
        TargetRanks(greater, np.ones_like(greater)), np.arange(len(greater)), np.arange(len(greater))
    )


def test_a_user_counts_once_whatever_the_number_of_seeds():
    together = pooled([result([0, 20]), result([20, 20])])
    assert together.per_user((10,))["recall@10"].tolist() == [0.5, 0.0]


def test_median_of_the_seeds_and_interval_of_their_mean():
    system = compared([result([0, 0, 20, 20]), result([0, 20, 20, 20]), result([0, 0, 0, 20])], (10,))
    assert system.seeds["recall@10"] == [0.5, 0.25, 0.75]
    assert system.median("recall@10") == 0.5
    assert system.intervals["recall@10"].mean == pytest.approx(0.5)
    assert system.intervals["recall@10"].count == 4
    assert system.to_dict()["recall@10"]["median"] == 0.5


def test_differences_are_paired_and_corrected():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 40, size=400)
    results = {
        "base": [result(base)],
        "better": [result(np.maximum(base - 5, 0)), result(np.maximum(base - 4, 0))],
        "same": [result(base), result(base)],
    }
    found = differences(results, "base", ("recall@10", "mrr"))
    assert set(found) == {"better", "same"}
    better, same = found["better"]["recall@10"], found["same"]["recall@10"]
    assert better["difference"] == pytest.approx(np.mean(base < 15) / 2 + np.mean(base < 14) / 2 - np.mean(base < 10))
    assert 0 < better["low"] < better["difference"] < better["high"]
    assert better["p_holm"] == pytest.approx(2 / 2_001)
    assert (same["difference"], same["p_holm"]) == (0, 1)
    table = differences_table(found, "base")
    assert table.columns == ["minus base", "recall@10", "p", "mrr", "p"]
    assert table.rows[0][2] == "< 0.001"
    assert table.rows[1][1:3] == ["+0.0000 ±0.0000", "1.000"]
    three = {"base": results["base"]} | dict.fromkeys(("a", "b", "c"), results["better"])
    assert differences_table(differences(three, "base", ("mrr",)), "base").rows[0][2] == "≤ 0.002"


def test_table_has_published_values_under_the_system():
    kept = {"sasrec": compared([result([0, 30])], (10,)), "vqrec": compared([result([0, 1])], (10,))}
    learned = {"sasrec": compared([result([0, 0])], (10,))}
    published = {
        "vqrec": [
            PublishedValue("ndcg@10", 0.0593, "VQ-Rec without pre-training", False, "paper"),
            PublishedValue("recall@10", 0.1211, "VQ-Rec", True, "paper"),
        ],
        "": [PublishedValue("ndcg@10", 0.0753, "MISSRec", True, "paper")],
    }
    systems = {"kept": kept, "learned": learned}
    table = protocols_table(systems, published, Costs({"vqrec": 2.0}, {"vqrec": 1.25}), ("recall@10", "ndcg@10"))
    shown = ["recall@10 kept", "ndcg@10 kept", "recall@10 learned", "ndcg@10 learned"]
    assert table.columns == ["system", *shown, "training", "peak GiB"]
    assert [row[0] for row in table.rows] == [
        "sasrec",
        "vqrec",
        "  published: VQ-Rec without pre-training",
        "  published: VQ-Rec, pre-trained",
        "published: MISSRec, pre-trained",  # of no system that is compared
    ]
    assert table.rows[0][1] == "0.5000 ±0.5000"
    assert table.rows[0][3] == "1.0000 ±0.0000"
    assert table.rows[1][3:] == ["", "", "2.0 min", "1.25"]
    assert table.rows[2][1:] == ["", "0.0593", "", "", "", ""]
    assert table.rows[3][1:] == ["0.1211", "", "", "", "", ""]
    assert table.rows[4][1:] == ["", "0.0753", "", "", "", ""]
    assert table.strong == {0, 1}  # the best under each protocol


def test_the_time_of_a_training_is_in_a_unit_of_its_size():
    costs = Costs({"ease": 0.0, "itemknn": 0.4 / 60, "blend": 74 / 60, "sasrec": 3.2}, {})
    shown = [costs.cells(name)[0] for name in ("ease", "itemknn", "blend", "sasrec", "chance")]
    assert shown == ["less than 0.1 s", "0.4 s", "74 s", "3.2 min", ""]


def test_one_seed_is_no_median():
    assert [median_of(seeds) for seeds in (1, 3)] == ["one seed", "median of 3 seeds"]


def test_systems_with_different_numbers_of_seeds_are_compared():
    """What needs no seed has one result, the others one for each seed; slices count each case once."""
    users = 40
    greater = np.arange(users)
    results = {
        "chance": [{"kept": result(np.full(users, 30))}],
        "simple": [{"kept": result(greater), "excluded": result(greater)}],
        "trained": [{"kept": result(greater // 2)}, {"kept": result(greater // 2)}],
    }
    first = Slice("half", "first", greater < 20)
    found = Comparison.of(results, "simple", [first], (10,), ("recall@10",)).to_dict()
    assert (found["users"], found["baseline"]) == (40, "simple")
    assert found["systems"]["trained"]["recall@10"]["seeds"] == [0.5, 0.5]
    assert found["systems"]["simple"]["recall@10"]["seeds"] == [0.25]
    assert list(found["excluded"]) == ["simple"]
    assert list(found["differences"]["kept"]) == ["trained"]
    assert found["differences"]["kept"]["trained"]["recall@10"]["difference"] == pytest.approx(0.25)
    [part] = found["slices"]
    assert (part["cases"], part["users"]) == (20, 20)
    assert part["systems"]["simple"]["recall@10"]["mean"] == 0.5
    assert part["systems"]["trained"]["recall@10"]["mean"] == 1.0
    assert part["systems"]["trained"]["recall@10"]["count"] == 20
