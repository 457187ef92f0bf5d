"""The fit of weights and repeat term: against known laws, and sampled classes against all."""

import numpy as np
import pytest
import torch
from scores import stack_data

from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation import case_scores, stacking
from linguarec.evaluation.case_scores import CaseScores, Part
from linguarec.evaluation.stacking import fit_repeats, fit_scores
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.repeats import RepeatTerm, SeenItems
from linguarec.ranking.sums import SumRanker

NUM_ITEMS, NUM_CASES = 60, 6_000
LAW = np.array([-1.0, 2.0, 1.0, -2.0, 0.5, 0.0, 0.0])


def part_of(keys: torch.Tensor, queries: torch.Tensor) -> Part:
    return Part(
        DenseRanker(keys), lambda cases: iter([(np.arange(len(cases)), queries[torch.from_numpy(cases.users)])])
    )


@pytest.fixture(scope="module")
def world():
    """Targets drawn by a softmax over 0.7 a + 0 b + law(steps since the item last occurred)."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    histories = Ragged.from_lists(
        [rng.permutation(NUM_ITEMS)[: rng.integers(3, 20)].tolist() for _ in range(NUM_CASES)]
    )
    keys = [torch.randn(NUM_ITEMS, 4, generator=generator) for _ in range(2)]
    queries = [torch.randn(NUM_CASES, 4, generator=generator) for _ in range(2)]
    logits = 0.7 * (queries[0] @ keys[0].T).double().numpy()
    seen = SeenItems.of(histories)
    np.add.at(logits, (np.repeat(np.arange(NUM_CASES), seen.rows.lengths), seen.rows.values), LAW[seen.buckets])
    targets = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1).astype(np.int32)
    cases = EvaluationCases(histories, targets, np.arange(NUM_CASES))
    return cases, [part_of(k, q) for k, q in zip(keys, queries, strict=True)], logits


def test_the_law_that_made_the_cases_is_found(world):
    cases, parts, _ = world
    found = fit_scores(stack_data(parts, cases, 0), len(parts))
    assert found.weights == pytest.approx((0.7, 0.0), abs=0.05)
    assert found.repeats.values[:5] == pytest.approx(LAW[:5], abs=0.2)
    assert found.cases == NUM_CASES


def test_the_derivatives_are_those_of_the_loss(world):
    cases, parts, _ = world
    data = stack_data(parts, cases.select(np.arange(300)), 0)
    numbers, width = np.array([0.4, 0.2, *LAW / 2]), 0.02
    found = stacking._loss(data, numbers)
    moved = [[stacking._loss(data, numbers + side * step) for side in (1, -1)] for step in width * np.eye(len(numbers))]
    slopes = [(up.value - down.value) / (2 * width) for up, down in moved]
    assert found.gradient == pytest.approx(np.array(slopes), abs=5e-4)
    bends = np.array([(up.gradient - down.gradient) / (2 * width) for up, down in moved])
    assert found.curvature == pytest.approx(bends, rel=1e-3, abs=1e-3)


def test_few_passes_over_the_cases_find_the_minimum(world, monkeypatch):
    """Each is a softmax over all items of all cases."""
    cases, parts, _ = world
    data, passes, loss = stack_data(parts, cases, 0), [], stacking._loss
    monkeypatch.setattr(stacking, "_loss", lambda *given: passes.append(given) or loss(*given))
    found = fit_scores(data, len(parts))
    assert 2 < len(passes) <= 12
    there = loss(data, np.array([*found.weights, *found.repeats.values]))
    assert there.gradient[0] == pytest.approx(0, abs=1e-4)
    assert found.weights[1] > 0 or there.gradient[1] > 0
    assert there.gradient[2:] == pytest.approx(-1e-4 * np.array(found.repeats.values), abs=1e-4)


def test_a_part_that_is_named_twice_is_no_obstacle(world):
    cases, parts, _ = world
    found = fit_scores(stack_data([parts[0], parts[0]], cases, 0), 2)
    assert sum(found.weights) == pytest.approx(0.7, abs=0.05)


def test_directions_without_a_curvature_are_no_obstacle():
    """As of a model that gives all items one score, with what rounding makes of 0."""
    curvature = np.array([[-1e-7, 0.0], [0.0, 2.0]])
    step = stacking._newton_step(
        stacking._Loss(0.0, np.array([0.0, 1.0]), curvature), np.full(2, -9.0), np.full(2, 9.0)
    )
    assert step == pytest.approx([0.0, -0.5])


def test_sampled_classes_find_the_same_law(world, monkeypatch):
    cases, parts, _ = world
    monkeypatch.setattr(case_scores, "_MOST_ITEMS", 50)
    found = fit_scores(stack_data(parts, cases, 0), len(parts))
    assert found.weights == pytest.approx((0.7, 0.0), abs=0.05)
    assert found.repeats.values[:5] == pytest.approx(LAW[:5], abs=0.25)


def test_one_case_with_sampled_classes_counts_as_two_of_the_same(world, monkeypatch):
    cases, parts, _ = world
    monkeypatch.setattr(case_scores, "_MOST_ITEMS", 50)
    one, two = (
        stacking._loss(stack_data(parts, cases.select(np.zeros(n, int)), 0), LAW[[1, 2, *range(7)]]) for n in (1, 2)
    )
    assert one.value == pytest.approx(two.value, rel=1e-6) and one.gradient == pytest.approx(two.gradient, abs=1e-6)


def test_a_shop_with_repeats_reaches_its_best_possible_score(world):
    """The best possible ranking is that by the logits that drew the targets; `learned` must be within 1 % of it."""
    cases, parts, logits = world
    half = NUM_CASES // 2
    fitted, tested = cases.select(np.arange(half)), cases.select(np.arange(half, NUM_CASES))
    term = fit_repeats(parts[0], fitted)
    assert term is not None
    found = parts[0].rank(tested, term)
    identity = Part(
        DenseRanker(torch.eye(NUM_ITEMS)),
        lambda some: iter([(np.arange(len(some)), torch.from_numpy(logits[some.users]).float())]),
    )
    best = identity.rank(tested, None)["kept"].mean("ndcg@10")
    assert found["learned"].mean("ndcg@10") > 0.99 * best
    assert found["kept"].mean("ndcg@10") < 0.97 * best
    assert found["excluded"].mean("ndcg@10") != pytest.approx(best, rel=0.03)


def test_without_repeats_the_history_is_ranked_last(world):
    cases, parts, _ = world
    seen = np.array([target in cases.histories[row] for row, target in enumerate(cases.targets)])
    fresh = cases.select(np.flatnonzero(~seen))
    term = fit_repeats(parts[0], fresh)
    found = parts[0].rank(fresh, term)
    assert found["learned"].mean("ndcg@10") == pytest.approx(found["excluded"].mean("ndcg@10"))
    assert found["learned"].mean("ndcg@10") > found["kept"].mean("ndcg@10")


def test_the_units_are_those_of_the_scores(world):
    cases, parts, _ = world
    doubled = Part(DenseRanker(2 * parts[0].ranker.keys), parts[0].queries)
    term, twice = fit_repeats(parts[0], cases), fit_repeats(doubled, cases)
    ranked, ranked_twice = parts[0].rank(cases, term)["learned"], doubled.rank(cases, twice)["learned"]
    assert ranked_twice.mean("ndcg@10") == pytest.approx(ranked.mean("ndcg@10"), abs=1e-3)
    assert fit_repeats(parts[0], cases.select(np.zeros(0, dtype=np.int64))) is None
    assert isinstance(term, RepeatTerm)


def test_a_drawn_part_of_the_catalogue_gives_the_term_of_all_of_it(world, monkeypatch):
    """ndcg@10 is of ranks among all items: among a sixth of them new targets would seem to be on top."""
    cases, parts, _ = world
    some = cases.select(np.arange(3_000))
    wanted = fit_repeats(parts[0], some)
    monkeypatch.setattr(case_scores, "_MOST_ITEMS", 10)
    found = fit_repeats(parts[0], some)
    scores = CaseScores(parts[:1], some, 0)
    assert scores.sampled
    heads = scores.heads(np.arange(3_000))
    reached = [heads.ndcg(np.array(term.values)) for term in (wanted, found)]
    assert reached[1] == pytest.approx(reached[0], abs=0.003) and reached[1] > heads.ndcg(np.zeros(7)) + 0.01


def test_removed_items_are_not_drawn(monkeypatch):
    monkeypatch.setattr(case_scores, "_MOST_ITEMS", 50)
    gone = np.arange(20, 28)
    assert not set(case_scores._classes(NUM_ITEMS, gone, 0)) & set(gone.tolist())
    assert len(case_scores._classes(NUM_ITEMS, np.zeros(0, np.int64), 0)) == 50


def test_what_fills_a_row_up_is_no_score(world, monkeypatch):
    cases, parts, _ = world
    monkeypatch.setattr(case_scores, "_MOST_ITEMS", 50)
    few = cases.select(np.arange(50))
    spread = stack_data(parts, few, 0).spread()
    histories = [*(row.tolist() for row in few.histories), list(range(NUM_ITEMS))]
    long = EvaluationCases(Ragged.from_lists(histories), np.append(few.targets, 0), np.append(few.users, 0))
    assert stack_data(parts, long, 0).spread().numpy() == pytest.approx(spread.numpy(), rel=0.02)


def test_a_catalogue_of_one_item_has_a_term():
    part = part_of(torch.ones(1, 2), torch.ones(5, 2))
    cases = EvaluationCases(Ragged.from_lists([[0]] * 5), np.zeros(5, np.int32), np.arange(5))
    term = fit_repeats(part, cases)
    assert term is not None and np.isfinite(term.values).all()


def test_a_model_that_has_diverged_is_named_as_such():
    cases = EvaluationCases(Ragged.from_lists([[0], [1]]), np.array([1, 0], np.int32), np.arange(2))
    with pytest.raises(ValueError, match="not finite: the model has diverged"):
        fit_repeats(part_of(torch.eye(2), torch.full((2, 2), torch.nan)), cases)


def test_queries_are_made_once_for_cases_that_a_part_remembers(world, monkeypatch):
    monkeypatch.setattr(case_scores, "_REMEMBERED_AT_ONCE", 70)
    cases, parts, _ = world
    first, second, asked = cases.select(np.arange(200)), cases.select(np.arange(200, 300)), []

    def counted(part):
        return Part(part.ranker, lambda some: asked.append(len(some)) or part.queries(some))

    remembering = [counted(part).remembering(first, second) for part in parts]
    for part, own in zip(remembering, parts, strict=True):
        for some in (first, second, first, second):
            kept, wanted = part.rank(some, None)["kept"], own.rank(some, None)["kept"]
            assert np.array_equal(kept.ranks.greater, wanted.ranks.greater)
    assert asked == [200, 100, 200, 100]

    def of_blend(some):
        for index, queries in parts[0].queries(some):
            asked.append("the blend")
            yield index, (queries, next(iter(parts[1].queries(some)))[1])

    whole = Part(SumRanker([part.ranker for part in parts], [0.7, 0.3]), of_blend).reusing(remembering)
    scores = stack_data(parts, first, 0).scores
    wanted = (0.7 * scores[:, 0] + 0.3 * scores[:, 1]).argsort(dim=1, descending=True).argsort(dim=1)
    found = whole.rank(first, None)["kept"].ranks.greater
    assert np.array_equal(found, wanted[torch.arange(200), torch.from_numpy(first.targets).long()].numpy())
    remembering[0].rank(cases.select(np.arange(10)), None)
    assert asked == [200, 100, 200, 100, 10]
    # What is not remembered is asked for as without parts that remember.
    others = cases.select(np.arange(200))
    assert np.array_equal(whole.rank(others, None)["kept"].ranks.greater, found)
    assert asked[5:] == ["the blend"]


def test_large_sets_are_not_remembered_and_empty_ones_have_no_queries(world, monkeypatch):
    cases, parts, _ = world
    small, large, none = (cases.select(np.arange(size)) for size in (50, 51, 0))
    monkeypatch.setattr(case_scores, "_MOST_REMEMBERED", 100)
    found = case_scores.remembering(parts, small, large, none)
    assert all(len(part.remembered) == 2 and part.remembered[0] is small for part in found)
    assert len(found[0].rank(none, None)["kept"]) == 0


def test_kept_queries_have_no_gradients():
    weights = torch.nn.Linear(2, 2)
    part = Part(DenseRanker(torch.eye(2)), lambda cases: iter([(np.array([1, 0]), weights(torch.eye(2)))]))
    cases = EvaluationCases(Ragged.from_lists([[0], [1]]), np.array([1, 0], np.int32), np.arange(2))
    scores = CaseScores([part], cases, 0)
    queries = scores._queries[0].of(np.array([1, 0]))
    assert not queries.requires_grad and torch.equal(queries, weights(torch.eye(2)).detach())
    assert scores.of(np.array([0])).scores[0, 0].tolist() == pytest.approx(queries[1].tolist())
