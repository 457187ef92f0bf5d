"""How a sum scores new items: on a world where known items are scored by ID and new ones by text."""

import numpy as np
import pytest
import torch

from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.new_items import choose_for_new
from linguarec.evaluation.stacking import Part
from linguarec.ranking.dense import DenseRanker

NUM_ITEMS, NUM_CASES = 200, 3_000


def part(scores: np.ndarray, rows: np.ndarray | None = None) -> Part:
    """The scores [cases, items] of one model, of all items or of some."""
    queries, keys = torch.from_numpy(scores).float(), torch.eye(scores.shape[1])
    keys = keys if rows is None else keys[torch.from_numpy(rows)]
    return Part(
        DenseRanker(keys), lambda cases: iter([(np.arange(len(cases)), queries[torch.from_numpy(cases.users)])])
    )


@pytest.fixture(scope="module")
def world():
    """IDs and text both know something of the next item; of an item treated as new, IDs know nothing."""
    rng = np.random.default_rng(0)
    ids, text = rng.normal(size=(2, NUM_CASES, NUM_ITEMS))
    targets = (2.0 * ids + text + rng.gumbel(size=ids.shape)).argmax(axis=1).astype(np.int32)
    histories = Ragged.from_lists([rng.permutation(NUM_ITEMS)[:3].tolist() for _ in range(NUM_CASES)])
    return ids, text, EvaluationCases(histories, targets, np.arange(NUM_CASES))


def test_new_items_are_ranked_as_well_as_by_the_text_alone(world):
    ids, text, cases = world
    blank = np.random.default_rng(1).normal(size=ids.shape)
    found = choose_for_new(
        [part(ids), part(0.1 * text)],
        (2.0, 10.0),
        (False, True),
        lambda rows: [part(blank, rows), part(0.1 * text, rows)],
        cases,
        np.arange(NUM_ITEMS),
    )
    assert found is not None and found.best_reader == 1 and found.cases > 1_000
    assert found.new_targets > found.by_reader > 0
    assert found.new.weights[0] * blank.std() < found.new.weights[1] * 0.1  # what knows nothing of them counts little
    assert found.new.rows == ()
    assert 0.7 * found.known_alone < found.known_targets < found.known_alone


def test_a_part_that_reads_badly_is_not_the_bar(world):
    ids, text, cases = world
    noise = np.random.default_rng(2).normal(size=ids.shape)
    found = choose_for_new(
        [part(ids), part(noise), part(text)],
        (2.0, 0.0, 1.0),
        (False, True, True),
        lambda rows: [part(0 * ids, rows), part(noise, rows), part(text, rows)],
        cases,
        np.arange(NUM_ITEMS),
    )
    assert found is not None and found.best_reader == 2
    assert found.new.weights[2] > found.new.weights[1]
    assert found.new_targets >= found.by_reader


def test_without_readers_or_cases_nothing_is_chosen(world):
    ids, text, cases = world
    parts = [part(ids), part(text)]
    arguments = (lambda rows: [part(ids, rows), part(text, rows)], cases, np.arange(NUM_ITEMS))
    assert choose_for_new(parts, (1.0, 1.0), (False, False), *arguments) is None
    few = cases.select(np.arange(5))
    assert choose_for_new(parts, (1.0, 1.0), (True, True), arguments[0], few, arguments[2]) is None


def test_a_seed_repeats_the_choice(world):
    ids, text, cases = world
    parts = [part(ids), part(text)]
    found = [
        choose_for_new(
            parts, (1.0, 1.0), (False, True), lambda rows: [part(0 * ids, rows), part(text, rows)], cases,
            np.arange(NUM_ITEMS), 3,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert found[0] == found[1]
