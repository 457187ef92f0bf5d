"""`SumRanker`: a blend equals one ranker of the summed scores."""

import numpy as np
import pytest
import torch
from scipy import sparse

from linguarec.data.ragged import Ragged
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.sparse import SparseRanker
from linguarec.ranking.sums import NewItems, SumRanker, keys_of_new

NUM_ITEMS, NUM_QUERIES = 300, 40


@pytest.fixture
def world():
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    dense = [torch.randn(NUM_ITEMS, width, generator=generator) for width in (7, 24)]
    matrix = rng.random((NUM_ITEMS, NUM_ITEMS)) * (rng.random((NUM_ITEMS, NUM_ITEMS)) < 0.1)
    weights = rng.random((NUM_QUERIES, NUM_ITEMS)) * (rng.random((NUM_QUERIES, NUM_ITEMS)) < 0.05)
    queries = (
        torch.randn(NUM_QUERIES, 7, generator=generator),
        torch.randn(NUM_QUERIES, 24, generator=generator),
        sparse.csr_array(weights),
    )
    exclude = Ragged.from_lists([rng.integers(0, NUM_ITEMS, 5).tolist() for _ in range(NUM_QUERIES)])
    return (*dense, matrix), (0.5, -2.0, 3.0), queries, exclude


def fused(keys, weights, queries):
    """Queries times weights and keys side by side; the sparse part as its dense product with the identity."""
    sides = torch.cat(
        [weights[0] * queries[0], weights[1] * queries[1], torch.from_numpy(weights[2] * (queries[2] @ keys[2]))], 1
    )
    return sides.double(), torch.cat([keys[0], keys[1], torch.eye(len(keys[0]))], dim=1).double()


def blend(keys, weights):
    return SumRanker([DenseRanker(keys[0]), DenseRanker(keys[1]), SparseRanker(keys[2])], weights)


def test_a_blend_is_one_model_with_keys_side_by_side(world):
    keys, weights, queries, exclude = world
    sides, columns = fused(keys, weights, queries)
    scores = (sides @ columns.T).numpy()
    scores[np.repeat(np.arange(NUM_QUERIES), 5), exclude.values] = -np.inf
    best = blend(keys, weights).top_k(queries, 20, exclude)
    assert np.array_equal(best.rows, np.argsort(-scores, axis=1, kind="stable")[:, :20])
    assert best.scores == pytest.approx(np.take_along_axis(scores, best.rows, axis=1), abs=1e-5)
    targets = np.random.default_rng(1).integers(0, NUM_ITEMS, NUM_QUERIES)
    expected = DenseRanker(columns.float()).ranks(sides.float(), targets, exclude)
    found = blend(keys, weights).ranks(queries, targets, exclude)
    assert np.array_equal(found.greater, expected.greater) and np.array_equal(found.ties, expected.ties)


def test_the_best_do_not_depend_on_the_other_queries(world):
    keys, weights, queries, _ = world
    ranker = blend(keys, weights)
    whole = ranker.top_k(queries, 10)
    for size in (1, 3, 40):
        for start in range(0, NUM_QUERIES, size):
            part = ranker.top_k(ranker.take(queries, start, start + size), 10)
            assert np.array_equal(part.rows, whole.rows[start : start + size])
            assert np.array_equal(part.scores, whole.scores[start : start + size])


def test_items_are_added_to_all_parts_and_removed_from_all(world):
    keys, weights, queries, _ = world
    new = (torch.randn(2, 7), torch.randn(2, 24), np.ones((NUM_ITEMS, 2)))
    ranker = blend(keys, weights).with_added(new).with_removed(np.array([3, NUM_ITEMS]))
    last = weights[0] * queries[0] @ new[0][1] + weights[1] * queries[1] @ new[1][1]
    expected = last.double() + weights[2] * torch.from_numpy(queries[2].sum(axis=1))
    found = ranker.top_k(queries, 2, within=np.array([NUM_ITEMS, NUM_ITEMS + 1, 3]))
    assert found.rows.tolist() == [[NUM_ITEMS + 1, -1]] * NUM_QUERIES
    assert found.scores[:, 0] == pytest.approx(expected.numpy(), abs=1e-4)


def test_parts_that_do_not_fit_are_refused(world):
    keys, weights, queries, _ = world
    dense, other = DenseRanker(keys[0]), DenseRanker(keys[1])
    refused = [
        (lambda: SumRanker([], []), "at least one"),
        (lambda: SumRanker([dense, other], [1.0]), "equally many"),
        (lambda: SumRanker([dense, other], [1.0, np.nan]), "finite"),
        (lambda: SumRanker([dense, other.with_removed(np.array([1]))], [1.0, 1.0]), "the same items"),
        (lambda: SumRanker([dense, DenseRanker(keys[1][:9])], [1.0, 1.0]), "the same items"),
        (lambda: blend(keys, weights).top_k((queries[0][:2], queries[1], queries[2]), 3), "equally many queries"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()


def test_new_items_have_weights_and_an_offset_of_their_own(world):
    keys, weights, queries, exclude = world
    new = NewItems((0.1, 1.0, 0.0), 7.5, (2, 5, 299))
    whole = blend(keys, weights)
    ranker = SumRanker(whole.parts, weights, new)
    expected = whole.scores_of(queries, torch.arange(NUM_ITEMS).expand(NUM_QUERIES, -1)).numpy()
    expected[:, [2, 5, 299]] = (
        0.1 * queries[0].double() @ keys[0][[2, 5, 299]].double().T
        + queries[1].double() @ keys[1][[2, 5, 299]].double().T
    ).numpy() + 7.5
    every = torch.arange(NUM_ITEMS).expand(NUM_QUERIES, -1)
    assert ranker.scores_of(queries, every).numpy() == pytest.approx(expected)
    out = torch.empty(NUM_QUERIES, NUM_ITEMS)
    ranker.score(queries, out)
    bound = ranker.error(queries)[:, None]
    assert (np.abs(out.numpy() - expected) <= bound).all() and (bound < 1e-3).all()
    assert (np.abs(expected) <= ranker.largest(queries)[:, None] + 1e-9).all()
    best = ranker.top_k(queries, 10, exclude)
    expected[np.repeat(np.arange(NUM_QUERIES), 5), exclude.values] = -np.inf
    assert np.array_equal(best.rows, np.argsort(-expected, axis=1, kind="stable")[:, :10])
    of_rows, offset = ranker.weights_of(np.array([[1, 2]]))
    assert of_rows[:, 0].tolist() == [[0.5, 0.1], [-2.0, 1.0], [3.0, 0.0]] and offset.tolist() == [[0.0, 7.5]]


def test_rows_of_new_items_follow_the_items(world):
    keys, weights, queries, _ = world
    ranker = SumRanker(blend(keys, weights).parts, weights, NewItems((0.1, 1.0, 0.0), 7.5, (2, 299)))
    assert ranker.subset(np.array([299, 4, 2])).new.rows == (0, 2)
    assert ranker.with_removed(np.array([2])).new.rows == (2, 299)
    added = ranker.with_added((torch.randn(2, 7), torch.randn(2, 24), np.ones((NUM_ITEMS, 2))))
    assert added.new.rows == (2, 299, 300, 301)
    known = ranker.scores_of(queries, torch.arange(NUM_ITEMS).expand(NUM_QUERIES, -1))
    assert torch.equal(added.scores_of(queries, torch.arange(NUM_ITEMS).expand(NUM_QUERIES, -1)), known)


def test_a_part_without_weight_for_new_items_needs_no_like_ones():
    counts, texts = SparseRanker(np.arange(144.0).reshape(12, 12)), SparseRanker(np.eye(12))
    own = np.ones((12, 3))
    keys = keys_of_new([counts, texts], (None, own), [], [0.0, 1.0])
    assert np.asarray(keys[0]).shape == (12, 3) and keys[1] is own
    ranker = SumRanker([counts, texts], [1.0, 1.0], NewItems((0.0, 1.0))).with_added((None, own))
    query = sparse.csr_array(np.eye(12)[:1])
    assert ranker.scores_of((query, query), torch.tensor([[12, 13, 14]])).tolist() == [[1.0, 1.0, 1.0]]


def test_what_stands_for_a_new_item_is_known_itself():
    dense = DenseRanker(torch.eye(12))
    counts = SparseRanker(np.arange(144.0).reshape(12, 12))
    like = torch.zeros(1, 12)
    like[0, :2] = torch.tensor([1.0, 0.9])
    keys = keys_of_new([counts, dense], (None, like), [0], [1.0, 1.0])
    expected = np.arange(144.0).reshape(12, 12)[:, 1:11].mean(axis=1)  # row 0 is as unknown as the new item
    assert np.asarray(keys[0])[:, 0] == pytest.approx(expected) and keys[1] is like
    with pytest.raises(ValueError, match="no part with item vectors"):
        keys_of_new([counts], (None,), [], [1.0])
    for bad in ((0.1,), (0.1, 1.0, np.inf)):
        with pytest.raises(ValueError, match=r"equally many|finite"):
            SumRanker([dense, dense, dense], [1.0, 1.0, 1.0], NewItems(bad))
