"""The best k of `DenseRanker`, its snapshots, and its ranks where items were added or removed."""

import threading
import warnings

import numpy as np
import pytest
import torch

from linguarec.data.ragged import Ragged
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.exact import highest, removed_rows

NUM_ITEMS, NUM_QUERIES = 409, 23


def oracle(queries, keys, k, exclude=None, within=None, removed=()):
    """Rows of the best k of each query in exact arithmetic of whole numbers, equal ones by row, -1 where none is left."""
    found = []
    for number, scores in enumerate((queries.double() @ keys.double().T).tolist()):
        allowed = range(len(keys)) if within is None else within if isinstance(within, np.ndarray) else within[number]
        barred = set(removed) | (set() if exclude is None else set(exclude[number].tolist()))
        order = sorted({int(row) for row in allowed} - barred, key=lambda row: (-scores[row], row))[:k]
        found.append(order + [-1] * (k - len(order)))
    return found


@pytest.fixture
def world():
    """Small whole numbers: every product is exact, and many scores tie."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randint(-2, 3, (NUM_QUERIES, 5), generator=generator).float()
    keys = torch.randint(-3, 4, (NUM_ITEMS, 5), generator=generator).float()
    rng = np.random.default_rng(0)
    exclude = Ragged.from_lists([rng.integers(0, NUM_ITEMS, rng.integers(0, 40)).tolist() for _ in range(NUM_QUERIES)])
    return queries, keys, exclude


@pytest.mark.parametrize("k", [1, 10, 400, 500])
def test_the_best_equal_the_oracle(world, k):
    queries, keys, exclude = world
    ranker = DenseRanker(keys)
    assert ranker.top_k(queries, k).rows.tolist() == oracle(queries, keys, k)
    best = ranker.top_k(queries, k, exclude)
    assert best.rows.tolist() == oracle(queries, keys, k, exclude)
    scores = np.pad((queries @ keys.T).numpy(), ((0, 0), (0, 1)), constant_values=-np.inf)
    assert np.array_equal(best.scores, np.take_along_axis(scores, best.rows, axis=1))
    assert best.rows.dtype == np.int64 and best.scores.dtype == np.float32


@pytest.mark.parametrize("few", [True, False])
def test_the_best_within_candidates_equal_the_oracle(world, few):
    queries, keys, exclude = world
    rng = np.random.default_rng(1)
    shared = rng.permutation(NUM_ITEMS)[: 12 if few else 300]
    lists = Ragged.from_lists(
        [rng.integers(0, NUM_ITEMS, rng.integers(0, 12 if few else 300)).tolist() for _ in range(NUM_QUERIES)]
    )
    ranker = DenseRanker(keys).with_removed(shared[:3])
    for within in (shared, lists):
        expected = oracle(queries, keys, 10, exclude, within, shared[:3].tolist())
        assert ranker.top_k(queries, 10, exclude, within).rows.tolist() == expected


def test_equal_vectors_tie_wherever_they_stand_and_however_many_queries_come_along():
    generator = torch.Generator().manual_seed(1)
    distinct = torch.randn(700, 300, generator=generator)
    keys = torch.cat([distinct, distinct.flip(0)])
    queries = torch.randn(67, 300, generator=generator)
    ranker = DenseRanker(keys[:1_001]).with_added(keys[1_001:1_002]).with_added(keys[1_002:])
    whole = DenseRanker(keys).top_k(queries, 20)
    first, second = whole.rows[:, ::2], whole.rows[:, 1::2]
    assert (first < 700).all() and np.array_equal(second, 1_399 - first)
    assert np.array_equal(whole.scores[:, ::2], whole.scores[:, 1::2])
    for other in (ranker, DenseRanker(keys)):
        for size in (1, 2, 16, 67):
            for start in range(0, 67, size):
                part = other.top_k(queries[start : start + size], 20)
                assert np.array_equal(part.rows, whole.rows[start : start + size])
                assert np.array_equal(part.scores, whole.scores[start : start + size])


def test_scores_are_exact_to_the_last_bit():
    generator = torch.Generator().manual_seed(2)
    keys, queries = torch.randn(3_000, 300, generator=generator), torch.randn(9, 300, generator=generator)
    exact = (queries.double() @ keys.double().T).float()
    best = DenseRanker(keys).top_k(queries, 50)
    values, rows = exact.sort(dim=1, descending=True, stable=True)
    assert np.array_equal(best.rows, rows[:, :50].numpy())
    assert np.array_equal(best.scores, values[:, :50].numpy())


def test_more_equal_items_than_are_looked_at_first():
    keys = torch.ones(5_000, 3)
    keys[4_000] = 2
    best = DenseRanker(keys).top_k(torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]), 4, Ragged.from_lists([[1], []]))
    assert best.rows.tolist() == [[4_000, 0, 2, 3], [0, 1, 2, 3]]


def test_ties_hold_between_the_items_that_were_there_and_those_added():
    """Of items with one vector, ranks count as many ties whether they stand in one array or in several."""
    generator = torch.Generator().manual_seed(3)
    keys, queries = torch.randn(1_001, 24, generator=generator), torch.randn(300, 24, generator=generator)
    keys[500:] = keys[:501].clone()
    targets = np.random.default_rng(0).integers(0, 1_001, 300)
    parts = DenseRanker(keys[:700]).with_added(keys[700:701]).with_added(keys[701:990]).with_added(keys[990:])
    found, expected = parts.ranks(queries, targets), DenseRanker(keys).ranks(queries, targets)
    assert np.array_equal(found.greater, expected.greater) and np.array_equal(found.ties, expected.ties)


def test_removed_items_are_no_candidates(world):
    queries, keys, exclude = world
    removed = np.array([7, 3, 7, 250])
    ranker = DenseRanker(keys).with_removed(removed[:2]).with_removed(removed[2:])
    assert ranker.removed.tolist() == [3, 7, 250]
    assert ranker.top_k(queries, 10, exclude).rows.tolist() == oracle(
        queries, keys, 10, exclude, removed=removed.tolist()
    )
    left = np.setdiff1d(np.arange(NUM_ITEMS), removed)
    targets = left[np.random.default_rng(0).integers(0, len(left), NUM_QUERIES)]
    found, expected = ranker.ranks(queries, targets), DenseRanker(keys).ranks(queries, targets, within=left)
    assert np.array_equal(found.greater, expected.greater) and np.array_equal(found.ties, expected.ties)
    with pytest.raises(ValueError, match="1 targets are not among the candidates"):
        ranker.ranks(queries[:2], np.array([7, 8]))


def test_ranks_within_a_list_for_each_query(world):
    queries, keys, exclude = world
    rng = np.random.default_rng(2)
    targets = rng.integers(0, NUM_ITEMS, NUM_QUERIES)
    lists = [[target, *rng.integers(0, NUM_ITEMS, 30).tolist()] for target in targets.tolist()]
    found = DenseRanker(keys).ranks(queries, targets, exclude, Ragged.from_lists(lists))
    for number in range(NUM_QUERIES):
        alone = DenseRanker(keys).ranks(
            queries[number : number + 1],
            targets[number : number + 1],
            exclude.select(np.array([number])),
            np.unique(lists[number]),
        )
        assert (found.greater[number], found.ties[number]) == (alone.greater[0], alone.ties[0])


def test_snapshots_are_not_disturbed_by_what_comes_after(world):
    queries, keys, _ = world
    base = DenseRanker(keys[:300])
    one = base.with_added(keys[300:340])
    left, right = one.with_added(keys[340:350]), one.with_added(keys[350:])  # both go on from the same one
    shrunk = left.with_removed(np.arange(0, 350, 3))
    for ranker, rows in (
        (base, range(300)),
        (one, range(340)),
        (left, range(350)),
        (right, [*range(340), *range(350, 409)]),
    ):
        assert len(ranker) == len(rows) and len(ranker.removed) == 0
        assert torch.equal(ranker.keys, keys[list(rows)])
        assert ranker.top_k(queries, 10).rows.tolist() == oracle(queries, keys[list(rows)], 10)
    assert shrunk.top_k(queries, 10).rows.tolist() == oracle(queries, keys[:350], 10, removed=range(0, 350, 3))


def test_many_items_added_one_by_one_are_those_added_at_once():
    generator = torch.Generator().manual_seed(4)
    keys, queries = torch.randn(2_600, 8, generator=generator), torch.randn(5, 8, generator=generator)
    ranker = DenseRanker(torch.empty(0, 8))
    assert ranker.top_k(queries, 2).rows.tolist() == [[-1, -1]] * 5
    for row in range(2_600):
        ranker = ranker.with_added(keys[row : row + 1])
    assert torch.equal(ranker.keys, keys)
    assert np.array_equal(ranker.top_k(queries, 30).rows, DenseRanker(keys).top_k(queries, 30).rows)


def test_items_added_in_inference_mode_do_not_bar_later_ones():
    with torch.inference_mode():
        ranker = DenseRanker(torch.ones(2, 2)).with_added(torch.ones(1, 2) * 2)
    ranker = ranker.with_added(torch.ones(1, 2) * 3)
    assert ranker.top_k(torch.ones(1, 2), 4).rows.tolist() == [[3, 2, 0, 1]]


def test_a_read_only_memory_map_is_not_copied(tmp_path, world):
    queries, keys, _ = world
    np.save(tmp_path / "keys.npy", keys.numpy())
    mapped = np.load(tmp_path / "keys.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranker = DenseRanker(mapped)
    assert ranker.keys.data_ptr() == mapped.ctypes.data
    assert ranker.top_k(queries, 10).rows.tolist() == oracle(queries, keys, 10)


def test_what_cannot_be_ranked_is_refused(world):
    queries, keys, exclude = world
    ranker = DenseRanker(keys)
    refused = [
        (lambda: ranker.top_k(queries, 0), "k is 0"),
        (lambda: ranker.top_k(queries[:, :2], 3), r"queries must be \[Q, 5\]"),
        (lambda: ranker.top_k(queries[:2], 3, exclude), "equally many"),
        (lambda: ranker.top_k(queries, 3, within=exclude.select(np.arange(2))), "equally many"),
        (lambda: ranker.top_k(queries, 3, within=np.array([NUM_ITEMS])), "there are 409 items"),
        (lambda: ranker.top_k(queries, 3, within=np.arange(-1, 300)), "there are 409 items"),
        (lambda: ranker.top_k(queries * torch.inf, 3), "not finite"),
        (lambda: DenseRanker(keys / 0).top_k(queries, 3), "not finite"),
        (lambda: ranker.with_added(keys[:, :2]), r"new keys must be \[n, 5\]"),
        (lambda: ranker.with_added(keys / 0), "not finite"),
        (lambda: ranker.with_removed(np.array([3, NUM_ITEMS])), "there are 409 items"),
        (lambda: DenseRanker(keys[0]), r"keys must be \[N, D\]"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()


def test_removed_rows_are_kept_in_order():
    assert removed_rows(np.array([2, 5]), np.array([9, 5, 0, 9]), 10).tolist() == [0, 2, 5, 9]
    assert removed_rows(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 0).tolist() == []


def test_the_highest_scores_are_found_block_by_block():
    scores = torch.randint(0, 50, (3, 10_007), generator=torch.Generator().manual_seed(0)).float()
    scores[:, ::7] = -torch.inf
    for count in (1, 13, 30):
        values, columns = highest(scores, count)
        assert torch.equal(values, scores.topk(count, dim=1).values)
        assert torch.equal(scores.gather(1, columns), values)
        assert all(len(set(row)) == count for row in columns.tolist())


def test_eight_threads_read_while_one_adds_and_removes_1000_items():
    """Every answer is that of one snapshot: the one that was current, whole."""
    rng = np.random.default_rng(0)
    base, new = rng.integers(-9, 10, (600, 6)), rng.integers(-9, 10, (1_000, 6))
    every, query = np.concatenate([base, new]), rng.integers(-9, 10, 6)
    scores = every @ query
    current = [DenseRanker(torch.from_numpy(base).float())]
    stop, failures, answers = threading.Event(), [], [0] * 8

    def read(number: int) -> None:
        try:
            while not stop.is_set() or answers[number] < 5:
                ranker = current[0]
                rows = ranker.top_k(torch.from_numpy(query).float()[None], 10).rows[0].tolist()
                removed = set(ranker.removed.tolist())
                left = [row for row in range(len(ranker)) if row not in removed]
                expected = sorted(left, key=lambda row: (-scores[row], row))[:10]
                if rows != expected:
                    failures.append((len(ranker), rows, expected))
                answers[number] += 1
        except Exception as error:  # noqa: BLE001  # whatever it is, the test must say so
            failures.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for number in range(1_000):
        current[0] = current[0].with_added(torch.from_numpy(new[number : number + 1]).float())
        current[0] = current[0].with_removed(np.array([rng.integers(0, len(current[0]))]))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert min(answers) >= 5 and len(current[0]) == 1_600


def test_scores_of_sparse_queries_are_known_to_be_close():
    """A query with few values is wrong by few roundings, so few items are scored a second time, however wide the keys are."""
    generator = np.random.default_rng(0)
    keys = torch.from_numpy(generator.standard_normal((50, 4000)).astype(np.float32))
    queries = torch.zeros(2, 4000)
    queries[0, [7, 1999, 3000]] = torch.tensor([1.0, 0.7, 0.49])
    queries[1] = 1
    ranker = DenseRanker(keys)
    sparse_error, dense_error = ranker.error(queries)
    longest = float(keys.norm(dim=1).max())
    assert sparse_error == pytest.approx(5 * 2.0**-24 * longest * float(queries[0].norm()))
    assert dense_error == pytest.approx(4002 * 2.0**-24 * longest * float(queries[1].norm()))
    out = torch.empty(2, 50)
    ranker.score(queries, out)
    wrong = (out.double() - ranker.scores_of(queries, torch.arange(50).expand(2, 50))).abs().amax(dim=1).numpy()
    assert wrong[0] <= sparse_error and wrong[1] <= dense_error


def test_wide_queries_of_few_values_rank_as_whole_products_do():
    width = 1_500
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(width, width)).astype(np.float32)
    keys[7] = keys[1_203]  # equal items tie
    added = rng.normal(size=(3, width)).astype(np.float32)
    queries = torch.zeros(40, width)
    for query in queries:
        query[rng.choice(width, 9, replace=False)] = torch.from_numpy(rng.random(9, dtype=np.float32))
    queries[5] = torch.from_numpy(rng.normal(size=width).astype(np.float32))  # one of many values among them
    targets = rng.integers(0, width + 3, 40)
    targets[:3] = 7
    ranker = DenseRanker(keys).with_added(added)
    exact = queries.double().numpy() @ np.concatenate([keys, added]).astype(np.float64).T
    target = exact[np.arange(40), targets][:, None]
    tied = np.abs(exact - target) < 1e-9
    ranks = ranker.ranks(queries, targets)
    np.testing.assert_array_equal(ranks.greater, (exact > target + 1e-9).sum(axis=1))
    np.testing.assert_array_equal(ranks.ties, tied.sum(axis=1))
    assert (ranks.ties[:3] == 2).all()
    alone = [ranker.ranks(queries[row : row + 1], targets[row : row + 1]).greater[0] for row in range(40)]
    np.testing.assert_array_equal(alone, ranks.greater)
    best = ranker.top_k(queries, 5)
    np.testing.assert_array_equal(best.rows, np.argsort(-exact, axis=1, kind="stable")[:, :5])
