"""`SparseRanker` against a dense product of whole numbers; EASE as its first user will need it."""

import numpy as np
import pytest
import torch
from scipy import sparse

from linguarec.data.ragged import Ragged
from linguarec.ranking import sparse as sparse_ranking
from linguarec.ranking.ordering import BestLists
from linguarec.ranking.repeats import RepeatTerm
from linguarec.ranking.sparse import SparseRanker

NUM_ITEMS, NUM_QUERIES = 61, 19


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    matrix = rng.integers(-3, 4, (NUM_ITEMS, NUM_ITEMS)) * (rng.random((NUM_ITEMS, NUM_ITEMS)) < 0.2)
    weights = rng.integers(1, 4, (NUM_QUERIES, NUM_ITEMS)) * (rng.random((NUM_QUERIES, NUM_ITEMS)) < 0.1)
    exclude = Ragged.from_lists([np.flatnonzero(row).tolist() for row in weights])
    return matrix.astype(np.float64), weights.astype(np.float64), exclude


def best(scores, k, exclude, allowed):
    found = []
    for number, row in enumerate(scores):
        left = [item for item in allowed if item not in set(exclude[number].tolist())]
        order = sorted(left, key=lambda item: (-row[item], item))[:k]
        found.append(order + [-1] * (k - len(order)))
    return found


@pytest.mark.parametrize("dense", [True, False])
def test_ranks_and_the_best_equal_a_dense_product(world, dense):
    matrix, weights, exclude = world
    ranker = SparseRanker(matrix if dense else sparse.csc_array(matrix)).with_removed(np.array([4, 40]))
    queries, scores = sparse.csr_array(weights), weights @ matrix
    allowed = np.setdiff1d(np.arange(NUM_ITEMS), [4, 40])
    assert ranker.top_k(queries, 12, exclude).rows.tolist() == best(scores, 12, exclude, allowed)
    assert ranker.top_k(queries, 70, exclude).rows.tolist() == best(scores, 70, exclude, allowed)
    within = np.array([50, 3, 4, 17, 9])
    assert ranker.top_k(queries, 3, exclude, within).rows.tolist() == best(scores, 3, exclude, [3, 9, 17, 50])
    lists = Ragged.from_lists([[50, 3, 4, 17, 9]] * NUM_QUERIES)
    assert ranker.top_k(queries, 3, exclude, lists).rows.tolist() == best(scores, 3, exclude, [3, 9, 17, 50])
    targets = allowed[np.random.default_rng(1).integers(0, len(allowed), NUM_QUERIES)]
    ranks = ranker.ranks(queries, targets, exclude)
    for number, target in enumerate(targets.tolist()):
        others = [item for item in allowed if item == target or item not in set(exclude[number].tolist())]
        assert ranks.greater[number] == sum(scores[number, others] > scores[number, target])
        assert ranks.ties[number] == sum(scores[number, others] == scores[number, target])


def test_an_added_item_gets_what_the_others_give_to_it(world):
    matrix, weights, exclude = world
    before = SparseRanker(sparse.csr_array(matrix))
    new = np.random.default_rng(2).integers(0, 9, (NUM_ITEMS, 2)).astype(np.float64)
    ranker = before.with_added(sparse.csr_array(new)).with_added(np.ones((NUM_ITEMS, 1)) * 2)
    assert (len(before), len(ranker)) == (NUM_ITEMS, NUM_ITEMS + 3)
    scores = np.concatenate([weights @ matrix, weights @ new, 2 * weights.sum(axis=1)[:, None]], axis=1)
    found = ranker.top_k(sparse.csr_array(weights), 10, exclude)
    assert found.rows.tolist() == best(scores, 10, exclude, range(NUM_ITEMS + 3))
    assert np.array_equal(found.scores, np.take_along_axis(scores, found.rows, axis=1).astype(np.float32))
    rows = np.array([NUM_ITEMS + 1, 2, NUM_ITEMS + 2, NUM_ITEMS - 1])  # in any order
    some = ranker.subset(rows)
    assert some.top_k(sparse.csr_array(weights), 1).scores[:, 0].tolist() == scores[:, rows].max(axis=1).tolist()
    best_of = some.top_k(sparse.csr_array(weights), 4)
    assert best_of.rows.tolist() == np.argsort(-scores[:, rows], axis=1, kind="stable").tolist()
    means = np.asarray(before.averaged(np.array([[0, 1, 5]])).toarray())[:, 0]
    assert means == pytest.approx(matrix[:, [0, 1, 5]].mean(axis=1), rel=1e-6)


def test_ease_recommends_what_was_bought_together():
    """B from Steck (2019), equation 8, against a constrained least-squares solution by itself for every item."""
    rng = np.random.default_rng(3)
    log = (rng.random((200, 12)) < 0.2).astype(np.float64)
    log[:, 1] = log[:, 0]  # items 0 and 1 are always bought together
    regularised = log.T @ log + 10 * np.eye(12)
    inverse = np.linalg.inv(regularised)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    for item in range(12):
        others = np.delete(np.arange(12), item)
        solved = np.linalg.solve(regularised[np.ix_(others, others)], regularised[others, item])
        assert weights[others, item] == pytest.approx(solved, abs=1e-9)
    history = sparse.csr_array(([1.0], ([0], [0])), shape=(1, 12))
    found = SparseRanker(weights).top_k(history, 3, Ragged.from_lists([[0]]))
    expected = np.argsort(-weights[0], kind="stable")
    assert found.rows.tolist() == [expected[expected != 0][:3].tolist()] and found.rows[0, 0] == 1


def test_a_query_scores_the_same_alone_and_with_others(world):
    matrix, weights, _ = world
    rng = np.random.default_rng(4)
    ranker = SparseRanker((matrix * rng.random(matrix.shape)).astype(np.float32))
    queries = sparse.csr_array(weights * rng.random(weights.shape))
    whole = ranker.top_k(queries, 9)
    for number in range(NUM_QUERIES):
        alone = ranker.top_k(queries[number : number + 1], 9)
        assert np.array_equal(alone.rows[0], whole.rows[number]) and np.array_equal(
            alone.scores[0], whole.scores[number]
        )


def test_what_cannot_be_ranked_is_refused(world):
    matrix, weights, _ = world
    ranker = SparseRanker(matrix)
    refused = [
        (lambda: SparseRanker(matrix[:, :3]), r"must be \[N, N\]"),
        (lambda: SparseRanker(matrix * np.nan), "not finite"),
        (lambda: ranker.with_added(np.ones((3, 1))), r"must be \[61, n\]"),
        (lambda: ranker.top_k(weights, 3), r"sparse array \[Q, 61\]"),
        (lambda: ranker.top_k(sparse.csr_array(weights[:, :9]), 3), r"sparse array \[Q, 61\]"),
        (lambda: ranker.top_k(sparse.csr_array(weights) * np.inf, 3), "not finite"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("removed", [[], [4, 40]])
@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
def test_few_scores_are_ranked_as_all_of_them(world, monkeypatch, removed, at_once):
    """Ranks under each protocol, the best items and single scores, where nearly all scores are 0."""
    matrix, weights, histories = world
    rng = np.random.default_rng(5)
    matrix = np.where(rng.random(matrix.shape) < 0.3, matrix, 0)
    histories = Ragged.from_lists([[*histories[row].tolist(), 7, 60, 7] for row in range(NUM_QUERIES)])
    ranker = SparseRanker(sparse.csr_array(matrix)).with_added(sparse.csr_array(matrix[:, 50:53]))
    ranker = ranker.with_removed(np.array(removed, dtype=np.int64))
    queries = sparse.csr_array(weights)
    targets = rng.choice(np.setdiff1d(np.arange(NUM_ITEMS), removed), NUM_QUERIES)
    targets[:3], targets[3] = 7, histories[3][0] if histories[3][0] not in removed else 60
    repeats = RepeatTerm((2.0, -1.0, 3.0, 0.0, -2.0, 1.0, 1.0))(histories)
    rows = rng.integers(0, NUM_ITEMS, (NUM_QUERIES, 9))

    def found(share):
        monkeypatch.setattr(sparse_ranking, "_FEW", share)
        monkeypatch.setattr(sparse_ranking, "_PRODUCTS_AT_ONCE", at_once)
        lists = BestLists(80)
        ranks = ranker.ranks_by_protocol(queries, targets, histories, repeats, lists)
        assert list(ranks) == ["kept", "excluded", "learned"]
        alone = ranker.ranks(queries, targets), ranker.ranks(queries, targets, histories)
        best = ranker.top_k(queries, 12), ranker.top_k(queries, 80, histories)
        scores = ranker.scores_of(queries, torch.from_numpy(rows)).tolist()
        return (
            {name: (each.greater.tolist(), each.ties.tolist()) for name, each in ranks.items()},
            [(each.greater.tolist(), each.ties.tolist()) for each in alone],
            [(each.rows.tolist(), each.scores.tolist()) for each in best],
            {name: np.sort(lists.rows(name)).tolist() for name in ranks},
            scores,
        )

    assert found(0) == found(1 << 40)  # the few alone, all of them
    none = ranker.ranks_by_protocol(queries[:0], targets[:0], Ragged.from_lists([]), repeats.slice(0, 0))
    assert [len(each) for each in none.values()] == [0, 0, 0]


def test_few_scores_are_refused_as_all_of_them(world):
    _, _, histories = world
    lone = sparse.csr_array(([1.0], ([0], [3])), shape=(1, NUM_ITEMS))
    ranker = SparseRanker(sparse.csr_array(np.eye(NUM_ITEMS))).with_removed(np.array([4]))
    with pytest.raises(ValueError, match="1 targets are not among the candidates"):
        ranker.ranks(lone, np.array([4]))
    with pytest.raises(ValueError, match="1 queries and 19 lists to exclude"):
        ranker.top_k(lone, 3, histories)
    with pytest.raises(ValueError, match="not finite"):
        ranker.top_k(lone * np.inf, 3)
    with pytest.raises(ValueError, match="not finite"):
        ranker.ranks(lone * np.inf, np.array([1]))
    with pytest.raises(ValueError, match="rows run from 66 to 66"):
        ranker.top_k(lone, 3, Ragged.from_lists([[NUM_ITEMS + 5]]))
    with pytest.raises(ValueError, match="rows run from -1 to -1"):
        ranker.ranks(lone, np.array([1]), Ragged.from_lists([[-1]]))
    with pytest.raises(ValueError, match=r"sparse array \[Q, 61\], CSR"):
        ranker.top_k(sparse.csc_array(lone), 3)
