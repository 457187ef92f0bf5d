"""`ApproximateRanker` on clustered vectors: what it finds has exact scores, and it finds nearly all."""

import numpy as np
import pytest
import torch

from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError
from linguarec.ranking.approximate import ApproximateRanker
from linguarec.ranking.dense import DenseRanker

NUM_ITEMS, WIDTH = 6_000, 31


@pytest.fixture(scope="module")
def world():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(60, WIDTH, generator=generator)
    keys = centres[torch.randint(0, 60, (NUM_ITEMS,), generator=generator)]
    keys = torch.nn.functional.normalize(keys + 0.5 * torch.randn(NUM_ITEMS, WIDTH, generator=generator), dim=1)
    queries = torch.nn.functional.normalize(centres + 0.3 * torch.randn(60, WIDTH, generator=generator), dim=1)
    return keys, queries, ApproximateRanker.build(DenseRanker(keys), candidates=200, probes=12)


def test_nearly_all_of_the_best_are_found_with_their_exact_scores(world):
    keys, queries, ranker = world
    found, exact = ranker.top_k(queries, 10), DenseRanker(keys).top_k(queries, 10)
    assert ranker.recall(queries, 10) >= 0.98
    hits = [len(set(mine) & set(best)) for mine, best in zip(found.rows.tolist(), exact.rows.tolist(), strict=True)]
    assert ranker.recall(queries, 10) == sum(hits) / 600
    whole = DenseRanker(keys).top_k(queries, NUM_ITEMS)
    scores = np.empty((60, NUM_ITEMS), dtype=np.float32)
    np.put_along_axis(scores, whole.rows, whole.scores, axis=1)
    assert np.array_equal(found.scores, np.take_along_axis(scores, found.rows, axis=1))
    assert (np.diff(found.scores) <= 0).all()
    few = ApproximateRanker.build(DenseRanker(keys), candidates=10, probes=1)
    assert few.recall(queries, 10) < 0.9  # so that recall is a measurement


def test_ranks_are_exact(world):
    keys, queries, ranker = world
    targets = np.random.default_rng(0).integers(0, NUM_ITEMS, len(queries))
    found, expected = ranker.ranks(queries, targets), DenseRanker(keys).ranks(queries, targets)
    assert np.array_equal(found.greater, expected.greater) and np.array_equal(found.ties, expected.ties)


def test_excluded_removed_and_outside_items_are_never_found(world):
    keys, queries, ranker = world
    best = DenseRanker(keys).top_k(queries, 40).rows
    exclude = Ragged.from_lists(best[:, :20].tolist())
    removed = np.unique(best[:, 20:30])
    less = ranker.with_removed(removed)
    found = less.top_k(queries, 10, exclude)
    assert not np.isin(found.rows, removed).any() and (found.rows >= 0).all()
    assert not any(set(rows) & set(exclude[number].tolist()) for number, rows in enumerate(found.rows.tolist()))
    assert ranker.removed.tolist() == [] and less.removed.tolist() == removed.tolist()
    half = np.arange(0, NUM_ITEMS, 2)
    assert (ranker.top_k(queries, 10, within=half).rows % 2 == 0).all()
    lists = Ragged.from_lists([half.tolist() if number % 2 else (half + 1).tolist() for number in range(len(queries))])
    rows = ranker.top_k(queries, 10, exclude, lists).rows
    assert (rows % 2 == (np.arange(len(queries)) % 2 == 0)[:, None]).all()


@pytest.mark.parametrize("kind", ["exclude", "within", "short within", "lists"])
def test_where_too_few_candidates_are_left_the_answer_is_exact(world, kind):
    keys, queries, ranker = world
    near = DenseRanker(keys).top_k(queries, 900).rows
    far = np.setdiff1d(np.arange(NUM_ITEMS), near[0])
    exclude = within = None
    if kind == "exclude":
        exclude = Ragged.from_lists(near.tolist())
    elif kind == "within":
        within = far
    elif kind == "short within":
        within = far[:300]
    else:
        within = Ragged.from_lists([far.tolist()] * len(queries))
    found, exact = ranker.top_k(queries[:1], 10), DenseRanker(keys).top_k(queries, 10, exclude, within)
    found = ranker.top_k(queries, 10, exclude, within)
    assert np.array_equal(found.rows[0], exact.rows[0]) and np.array_equal(found.scores[0], exact.scores[0])
    assert np.array_equal(ranker.top_k(queries, 3_000).rows, DenseRanker(keys).top_k(queries, 3_000).rows)


def test_items_added_after_the_index_was_built_are_found(world):
    keys, queries, ranker = world
    more = ranker.with_added(queries[:5] * 3).with_added(queries[5:9] * 3)
    removed = more.with_removed(np.array([NUM_ITEMS + 1, 3]))
    assert [len(each) for each in (ranker, more, removed)] == [NUM_ITEMS, NUM_ITEMS + 9, NUM_ITEMS + 9]
    assert more.top_k(queries[:9], 1).rows[:, 0].tolist() == list(range(NUM_ITEMS, NUM_ITEMS + 9))
    dense = DenseRanker(keys).with_added(queries[:9] * 3)
    assert np.array_equal(more.top_k(queries[:9], 1).scores, dense.top_k(queries[:9], 1).scores)
    assert removed.top_k(queries[1:2], 1).rows[0, 0] not in (NUM_ITEMS + 1, 3)
    exclude = Ragged.from_lists([[NUM_ITEMS + number] for number in range(9)])
    assert (more.top_k(queries[:9], 10, exclude).rows != np.arange(NUM_ITEMS, NUM_ITEMS + 9)[:, None]).all()
    assert ranker.top_k(queries[:9], 1).rows.max() < NUM_ITEMS


def test_a_stored_index_belongs_to_its_keys(world, tmp_path):
    keys, queries, ranker = world
    file = tmp_path / "index.npz"
    ranker.with_added(queries[:2]).save(file)
    again = ApproximateRanker.load(file, DenseRanker(keys))
    assert np.array_equal(again.top_k(queries, 10).rows, ranker.top_k(queries, 10).rows)
    grown = DenseRanker(keys).with_added(queries[:3] * 3).with_removed(np.array([NUM_ITEMS + 1]))
    later = ApproximateRanker.load(file, grown)
    assert (later.indexed, len(later)) == (NUM_ITEMS, NUM_ITEMS + 3)
    found = later.top_k(queries[:3], 1).rows[:, 0].tolist()
    assert (found[0], found[2]) == (NUM_ITEMS, NUM_ITEMS + 2) and found[1] != NUM_ITEMS + 1
    for other in (keys[:-1], keys.flip(0), keys * 2, keys[:, :5]):
        with pytest.raises(CheckpointMismatchError, match=r"is the index of 6,000 items with other keys"):
            ApproximateRanker.load(file, DenseRanker(other))
    with pytest.raises(CheckpointMismatchError, match=r"none\.npz is missing"):
        ApproximateRanker.load(tmp_path / "none.npz", DenseRanker(keys))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointMismatchError, match=r"index\.npz is cut short"):
        ApproximateRanker.load(file, DenseRanker(keys))


def test_small_catalogues_and_bad_calls(world):
    _, queries, ranker = world
    tiny = DenseRanker(torch.eye(WIDTH))
    assert ApproximateRanker.build(tiny).top_k(torch.eye(WIDTH)[:4], 2).rows.tolist() == [
        [0, 1],
        [1, 0],
        [2, 0],
        [3, 0],
    ]
    for call, message in (
        (lambda: ApproximateRanker.build(DenseRanker(torch.empty(0, 4))), "no items"),
        (lambda: ranker.top_k(queries, 0), "k is 0"),
        (lambda: ranker.top_k(queries[:, :3], 5), "queries must be"),
        (lambda: ranker.top_k(queries / 0, 5), "not finite"),
        (lambda: ranker.top_k(queries, 5, Ragged.from_lists([[1]])), "equally many"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
