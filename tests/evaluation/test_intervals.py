import numpy as np
import pytest

from linguarec.evaluation import intervals
from linguarec.evaluation.intervals import bootstrap_interval, bootstrap_intervals, holm, paired_difference


def test_interval_of_a_share_is_that_of_the_binomial():
    values = np.zeros(10_000)
    values[:1_000] = 1
    interval = bootstrap_interval(values)
    half = 1.96 * np.sqrt(0.1 * 0.9 / 10_000)
    assert interval.mean == 0.1
    assert interval.count == 10_000
    assert interval.low == pytest.approx(0.1 - half, abs=0.0006)
    assert interval.high == pytest.approx(0.1 + half, abs=0.0006)
    assert str(interval) == "0.1000 ±0.0058"


def test_equals_a_plain_bootstrap_of_users():
    rng = np.random.default_rng(0)
    values = rng.random(300)
    plain = [rng.choice(values, size=300).mean() for _ in range(4_000)]
    interval = bootstrap_interval(values, resamples=4_000)
    assert interval.low == pytest.approx(np.quantile(plain, 0.025), abs=0.003)
    assert interval.high == pytest.approx(np.quantile(plain, 0.975), abs=0.003)


def test_drawing_users_gives_the_intervals_of_drawing_counts(monkeypatch):
    """Where values differ from user to user, the same users are drawn for all columns."""
    rng = np.random.default_rng(0)
    columns = {"a": rng.random(3_000), "b": rng.exponential(size=3_000), "few": rng.integers(2, size=3_000) / 1.0}
    found = bootstrap_intervals(columns)
    assert found["b"].low == pytest.approx(bootstrap_interval(columns["b"]).low)
    monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", 3_000 * 7)
    assert bootstrap_intervals(columns)["a"].low == pytest.approx(found["a"].low)
    monkeypatch.setattr(intervals, "_FEW", 3_000)
    counted = bootstrap_intervals(columns)
    assert counted["few"] == found["few"]
    for name in "ab":
        assert counted[name] != found[name]
        assert counted[name].low == pytest.approx(found[name].low, abs=0.003)
        assert counted[name].high == pytest.approx(found[name].high, abs=0.003)


def test_seeded():
    values = np.random.default_rng(1).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_no_users():
    interval = bootstrap_interval(np.zeros(0))
    assert np.isnan(interval.mean)
    assert interval.count == 0


def test_paired_test_sees_a_small_difference_that_the_intervals_hide():
    rng = np.random.default_rng(2)
    baseline = rng.random(2_000)
    values = baseline + rng.normal(0.01, 0.02, size=2_000)
    test = paired_difference(values, baseline)
    assert test.difference == pytest.approx(0.01, abs=0.002)
    assert 0 < test.low < test.difference < test.high
    assert test.p_value == pytest.approx(1 / 2_001)
    assert bootstrap_interval(values).low < bootstrap_interval(baseline).high


def test_p_value_agrees_with_the_t_test():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(4)
    for shift in (0.0, 0.002, 0.004):
        baseline = rng.random(500)
        values = baseline + rng.normal(shift, 0.05, size=500)
        expected = ttest_rel(values, baseline).pvalue
        assert paired_difference(values, baseline).p_value == pytest.approx(expected, abs=0.03)


def test_equal_systems_do_not_differ():
    values = np.random.default_rng(5).random(100)
    test = paired_difference(values, values)
    assert (test.difference, test.low, test.high, test.p_value) == (0, 0, 0, 1)


def test_other_users_are_refused():
    with pytest.raises(ValueError, match="3 and 2 values"):
        paired_difference(np.zeros(3), np.zeros(2))


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
