"""The choice of a blend's weights: noise gets none, complementary parts gain, few cases do not mislead."""

import numpy as np
import pytest
import torch
from scores import stack_data

from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation import case_scores, choosing
from linguarec.evaluation.case_scores import CaseScores, Part, StackData, heads_of
from linguarec.evaluation.choosing import Choice, choose_stack
from linguarec.evaluation.stacking import Stack
from linguarec.ranking.dense import DenseRanker

NUM_ITEMS = 80


def world(
    cases: int, seed: int, signals: tuple[float, ...], noise: tuple[float, ...]
) -> tuple[list[Part], EvaluationCases]:
    """Targets drawn by the softmax of the sum of `signals`; a part sees its own signal, and noise of this size."""
    rng = np.random.default_rng(seed)
    histories = Ragged.from_lists([rng.permutation(NUM_ITEMS)[:3].tolist() for _ in range(cases)])
    own = [signal * rng.normal(size=(cases, NUM_ITEMS)) for signal in signals]
    logits = sum(own, np.zeros((cases, NUM_ITEMS)))
    targets = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1).astype(np.int32)
    scores = [mine + size * rng.normal(size=mine.shape) for mine, size in zip(own, noise, strict=True)]
    parts = []
    for of_part in scores:
        queries = torch.from_numpy(of_part).float()
        parts.append(
            Part(
                DenseRanker(torch.eye(NUM_ITEMS)),
                lambda some, queries=queries: iter([(np.arange(len(some)), queries[torch.from_numpy(some.users)])]),
            )
        )
    return parts, EvaluationCases(histories, targets, np.arange(cases))


def halves(cases: EvaluationCases) -> tuple[EvaluationCases, EvaluationCases]:
    """Valid and test."""
    index = np.arange(len(cases))
    return cases.select(index[: len(cases) // 2]), cases.select(index[len(cases) // 2 :])


def ndcg(parts: list[Part], found: Choice, cases: EvaluationCases) -> float:
    """On other cases, with the repeat term."""
    return heads_of(stack_data(parts, cases, 0), found.weights).ndcg(np.array(found.repeats.values))


def test_noise_gets_no_weight() -> None:
    parts, cases = world(3_000, 0, (1.5, 0.0), (0.0, 1.0))
    found = choose_stack(parts, halves(cases)[0])
    assert found.chosen == "part 1 alone" and found.weights == (1.0, 0.0) and found.best_part == 0
    assert found.gain is not None and found.gain.difference == 0
    assert found.cases == 1_500


def test_complementary_parts_gain_and_noise_beside_them_does_not() -> None:
    parts, cases = world(3_000, 1, (1.2, 1.2, 0.0), (0.0, 0.0, 1.0))
    valid, test = halves(cases)
    found = choose_stack(parts, valid)
    first, second, third = found.weights
    assert third == 0 and second / first == pytest.approx(1, rel=0.5)
    assert found.gain is not None and found.gain.low > 0
    alone = [choose_stack([part], valid) for part in parts]
    best = max(ndcg([part], own, test) for part, own in zip(parts, alone, strict=True))
    reached = ndcg(parts, found, test)
    assert reached > 1.2 * best
    assert found.gain.difference == pytest.approx(reached - best, abs=0.05)  # what cross-fitting promised


@pytest.mark.parametrize("seed", range(4))
def test_few_cases_do_not_mislead(seed: int) -> None:
    """Five parts that say the same with noise of their own: no weighting is better than chance makes it look."""
    parts, cases = world(2_100, seed, (1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 1.0, 1.0, 1.0, 1.0))
    valid, test = cases.select(np.arange(100)), cases.select(np.arange(100, 2_100))
    found = choose_stack(parts, valid, seed)
    assert ndcg(parts, found, test) >= ndcg(parts[:1], choose_stack(parts[:1], valid, seed), test) - 0.005


def test_with_a_handful_of_users_the_best_part_is_taken() -> None:
    parts, cases = world(12, 0, (3.0, 3.0), (0.0, 0.0))
    found = choose_stack(parts, cases)
    assert found.gain is None and sorted(found.weights) == [0.0, 1.0]
    assert found.weights[found.best_part] == 1.0


def test_the_simplest_within_one_standard_error_is_taken() -> None:
    rng = np.random.default_rng(0)
    best = rng.random(1_000)
    better, slightly = best + 0.1 * rng.random(1_000), best + 0.1 * rng.random(1_000)
    gains = {
        "part 1 alone": best,
        "part 2 alone": best / 2,
        "simple": better,
        "complex": better + 1e-3 * (rng.random(1_000) - 0.49),
    }
    assert choosing._simplest(gains, 2) == ("simple", "part 1 alone")
    assert choosing._simplest({**gains, "complex": slightly + 0.05}, 2) == ("complex", "part 1 alone")
    unsure = best + rng.normal(size=1_000)
    assert choosing._simplest({**gains, "simple": unsure, "complex": unsure}, 2)[0] in ("part 1 alone",)


def test_the_pool_ranks_like_all_classes() -> None:
    parts, cases = world(200, 3, (1.0, 1.0), (0.5, 0.5))
    data = stack_data(parts, cases, 0)
    scores = CaseScores(parts, cases, 0)
    blocks = [scores.of(np.arange(*ends)) for ends in ((0, 70), (70, 200))]
    pool = StackData.joined(block.pooled(20) for block in blocks)
    assert pool.scores.shape[2] < NUM_ITEMS
    term = np.array([-1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    for weights in ((1.0, 0.0), (1.0, 1.0), (0.3, 2.0)):
        assert heads_of(pool, weights).gains(term) == pytest.approx(heads_of(data, weights).gains(term))
    assert np.array_equal(
        np.concatenate([heads_of(each, (1.0, 1.0)).gains(term) for each in blocks]),
        heads_of(data, (1.0, 1.0)).gains(term),
    )


def test_one_weight_after_the_other_is_the_whole_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "ROWS", 64)
    parts, cases = world(200, 3, (1.0, 1.0), (0.5, 0.5))
    scores = CaseScores(parts, cases, 0)
    blocks = [scores.of(np.arange(*ends)) for ends in ((0, 70), (70, 200))]
    pool = StackData.joined(block.pooled(20) for block in blocks)
    assert pool.absent.any()
    for term in (np.array([-1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]), np.full(7, heads_of(pool, (1.0, 1.0)).lowest)):
        so_far = choosing._WeightedSum(pool, np.array([0.7, 0.0]), term)
        assert so_far.ndcg() == pytest.approx(heads_of(pool, (0.7, 0.0)).ndcg(term), abs=1e-6)
        assert so_far.ndcg(1, 2.0) == pytest.approx(heads_of(pool, (0.7, 2.0)).ndcg(term), abs=1e-6)
        so_far.change(1, 2.0)
        assert so_far.ndcg(0, -0.4) == pytest.approx(heads_of(pool, (0.3, 2.0)).ndcg(term), abs=1e-6)


def test_ties_are_no_gain() -> None:
    """A part that gives all items the same is chance, not the best part."""
    parts, cases = world(400, 4, (0.5, 0.0), (0.0, 0.0))
    found = choose_stack(parts, cases)
    assert found.weights == (1.0, 0.0)
    flat = heads_of(stack_data(parts, cases, 0), (0.0, 1.0)).ndcg(np.zeros(7))
    chance = float((1 / np.log2(np.arange(10) + 2)).sum() / NUM_ITEMS)
    assert flat == pytest.approx(chance)


def test_little_memory_does_not_mean_few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cases choose, a block at a time; only the fit of highest likelihood, which needs all classes, takes some of them."""
    parts, cases = world(1_500, 1, (1.2, 1.2, 0.0), (0.0, 0.0, 1.0))
    wanted = choose_stack(parts, cases)
    monkeypatch.setattr(case_scores, "_NUMBERS_OF_BLOCK", NUM_ITEMS * 3 * 7)
    in_blocks = choose_stack(parts, cases)
    assert in_blocks == wanted and wanted.chosen == "the best 2 parts"
    monkeypatch.setattr(case_scores, "most_whole", lambda parts: 200)
    monkeypatch.setattr(choosing, "most_whole", lambda parts: 200)
    fitted: list[int] = []
    real = choosing.fit_scores

    def counted(data: StackData, parts: int) -> Stack:
        fitted.append(len(data.target))
        return real(data, parts)

    monkeypatch.setattr(choosing, "fit_scores", counted)
    found = choose_stack(parts, cases)
    assert found.cases == 1_500 and fitted == [200, 200]
    assert found.weights == pytest.approx(wanted.weights, rel=0.2) and found.chosen == wanted.chosen


def test_a_long_history_does_not_widen_the_pool() -> None:
    parts, cases = world(60, 5, (1.0, 1.0), (0.5, 0.5))
    lists = [row.tolist() for row in cases.histories]
    cases = EvaluationCases(Ragged.from_lists([list(range(NUM_ITEMS)), *lists[1:]]), cases.targets, cases.users)
    data = stack_data(parts, cases, 0)
    pool = data.pooled(12)
    assert pool.scores.shape[2] <= 2 * 2 * 12 + 1
    term = np.array([-0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0])
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        assert heads_of(pool, weights).gains(term) == pytest.approx(heads_of(data, weights).gains(term))
