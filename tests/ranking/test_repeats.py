"""The repeat term: buckets of the steps since an item last occurred, and rankers with adjusted scores."""

import json

import numpy as np
import pytest
import torch

from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError
from linguarec.ranking.adjusted import AdjustedRanker
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.repeats import NUM_BUCKETS, RepeatTerm, SeenItems

NUM_ITEMS, NUM_QUERIES = 300, 40
TERM = RepeatTerm((0.5, -1.0, 2.0, -3.0, 0.25, 1.0, -0.5))


@pytest.fixture
def world():
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    keys, queries = torch.randn(NUM_ITEMS, 8, generator=generator), torch.randn(NUM_QUERIES, 8, generator=generator)
    histories = Ragged.from_lists(
        [rng.integers(0, NUM_ITEMS, rng.integers(1, 60)).tolist() for _ in range(NUM_QUERIES)]
    )
    return keys, queries, histories


def adjusted_scores(keys, queries, histories):
    """Slowly, by the definition."""
    scores = (queries.double() @ keys.double().T).numpy()
    bounds = [1, 2, 4, 8, 16, 32, np.inf]
    for query in range(len(histories)):
        history = histories[query].tolist()
        for item in set(history):
            steps = history[::-1].index(item) + 1
            scores[query, item] += TERM.values[next(b for b, bound in enumerate(bounds) if steps <= bound)]
    return scores


def test_an_item_counts_at_its_last_occurrence():
    seen = SeenItems.of(Ragged.from_lists([[5, 3, 5, 9], [], [1, 2, 2]]))
    assert seen.rows.values.tolist() == [3, 5, 9, 1, 2]
    assert seen.rows.offsets.tolist() == [0, 3, 3, 5]
    assert seen.buckets.tolist() == [2, 1, 0, 2, 0]  # 3, 2, 1 and 3, 1 steps ago
    long = SeenItems.of(Ragged.from_lists([list(range(40))]))
    assert np.bincount(long.buckets).tolist() == [1, 1, 2, 4, 8, 16, 8]


def test_the_best_and_the_ranks_are_those_of_the_adjusted_scores(world):
    keys, queries, histories = world
    expected = adjusted_scores(keys, queries, histories)
    ranker, adjustments = AdjustedRanker(DenseRanker(keys)), TERM(histories)
    best = ranker.top_k((queries, adjustments), 20)
    assert np.array_equal(best.rows, np.argsort(-expected, axis=1, kind="stable")[:, :20])
    assert best.scores == pytest.approx(np.take_along_axis(expected, best.rows, axis=1), abs=1e-5)
    targets = np.random.default_rng(1).integers(0, NUM_ITEMS, NUM_QUERIES)
    of_target = expected[np.arange(NUM_QUERIES), targets]
    assert (
        ranker.ranks((queries, adjustments), targets).greater.tolist()
        == (expected > of_target[:, None]).sum(1).tolist()
    )
    rows = np.array([3, 50, 77, 200, 299])
    part = ranker.top_k((queries, adjustments), 5, within=rows)
    assert part.rows.tolist() == rows[np.argsort(-expected[:, rows], axis=1, kind="stable")].tolist()
    lists = ranker.top_k((queries, adjustments), 5, within=Ragged.from_lists([rows.tolist()] * NUM_QUERIES))
    assert lists.rows.tolist() == part.rows.tolist()


def test_one_pass_gives_the_ranks_of_every_protocol(world):
    keys, queries, histories = world
    rng = np.random.default_rng(2)
    targets = rng.integers(0, NUM_ITEMS, NUM_QUERIES)
    targets[:10] = [histories[query][0] for query in range(10)]  # some come back
    dense, adjustments = DenseRanker(keys), TERM(histories)
    found = dense.ranks_by_protocol(queries, targets, histories, adjustments)
    expected = {
        "kept": dense.ranks(queries, targets),
        "excluded": dense.ranks(queries, targets, exclude=histories),
        "learned": AdjustedRanker(dense).ranks((queries, adjustments), targets),
    }
    assert set(found) == set(expected)
    for protocol, ranks in expected.items():
        assert found[protocol].greater.tolist() == ranks.greater.tolist()
        assert found[protocol].ties.tolist() == ranks.ties.tolist()
    assert set(dense.ranks_by_protocol(queries, targets, histories)) == {"kept", "excluded"}


def test_the_term_is_stored_and_damages_are_refused(tmp_path):
    assert RepeatTerm.load(tmp_path) is None
    TERM.save(tmp_path)
    assert RepeatTerm.load(tmp_path) == TERM
    file = tmp_path / "repeats.json"
    stored = json.loads(file.read_text())
    for damaged in ({**stored, "values": [0.0]}, {**stored, "steps": [1, 2]}, {"values": stored["values"]}):
        file.write_text(json.dumps(damaged))
        with pytest.raises(CheckpointMismatchError, match="does not describe a repeat term"):
            RepeatTerm.load(tmp_path)
    with pytest.raises(ValueError, match="finite"):
        RepeatTerm((float("nan"),) * NUM_BUCKETS)
