"""How a sum scores new items: on a world where known items are scored by ID and new ones by text."""

import numpy as np
import pytest
import torch

from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.case_scores import Part
from linguarec.evaluation.new_items import choose_for_new
from linguarec.ranking.dense import DenseRanker

NUM_ITEMS, NUM_CASES = 200, 3_000
NONE = np.zeros(0, dtype=np.int64)


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
    found = choose_for_new(
        [part(ids), part(0.1 * text)],
        (2.0, 10.0),
        lambda rows: [None, part(0.1 * text, rows)],
        cases,
        np.arange(NUM_ITEMS),
        NONE,
    )
    assert found is not None and found.best_reader == 1 and found.cases > 1_000
    assert found.new_targets > found.by_reader > 0
    assert found.new.weights[0] == 0 < found.new.weights[1]
    assert found.new.rows == ()
    assert 0.7 * found.known_alone < found.known_targets < found.known_alone


def test_a_part_that_reads_badly_is_not_the_bar(world):
    ids, text, cases = world
    noise = np.random.default_rng(2).normal(size=ids.shape)
    found = choose_for_new(
        [part(ids), part(noise), part(text)],
        (2.0, 0.0, 1.0),
        lambda rows: [None, part(noise, rows), part(text, rows)],
        cases,
        np.arange(NUM_ITEMS),
        NONE,
    )
    assert found is not None and found.best_reader == 2
    assert found.new.weights[2] > found.new.weights[1]
    assert found.new_targets >= found.by_reader


def test_without_readers_or_cases_nothing_is_chosen(world):
    ids, text, cases = world
    parts = [part(ids), part(text)]
    every = np.arange(NUM_ITEMS)
    assert choose_for_new(parts, (1.0, 1.0), lambda rows: [None, None], cases, every, NONE) is None
    few = cases.select(np.arange(5))
    assert choose_for_new(parts, (1.0, 1.0), lambda rows: [None, part(text, rows)], few, every, NONE) is None


def test_a_seed_repeats_the_choice(world):
    ids, text, cases = world
    parts = [part(ids), part(text)]
    found = [
        choose_for_new(
            parts, (1.0, 1.0), lambda rows: [None, part(text, rows)], cases,
            np.arange(NUM_ITEMS), NONE, 3,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert found[0] == found[1]


def test_the_new_items_of_the_folder_are_counted(world):
    """What a hundred items of the folder that are new, too, take from known targets is counted."""
    ids, text, cases = world
    parts, trained = [part(ids), part(0.1 * text)], np.arange(0, NUM_ITEMS, 2)

    def as_new(rows):
        return [None, part(0.1 * text, rows)]

    alone = choose_for_new(parts, (2.0, 10.0), as_new, cases, trained, NONE)
    among = choose_for_new(parts, (2.0, 10.0), as_new, cases, trained, np.arange(1, NUM_ITEMS, 2))
    assert alone is not None and among is not None
    assert among.new_targets >= among.by_reader

    taken = [found.known_alone - found.known_targets for found in (alone, among)]
    assert taken[1] > 2 * taken[0] > 0


def test_targets_of_the_history_are_not_as_new_items_are(world):
    ids, text, cases = world
    every = np.arange(NUM_ITEMS)
    again = np.arange(0, NUM_CASES, 2)
    lists = [
        [*items, target] if case % 2 == 0 else items
        for case, (items, target) in enumerate(
            zip((cases.histories[row].tolist() for row in range(NUM_CASES)), cases.targets.tolist(), strict=True)
        )
    ]
    repeated = EvaluationCases(Ragged.from_lists(lists), cases.targets, cases.users)
    read = text.copy()
    read[again, cases.targets[again]] += 20.0  # a text in the history finds itself
    parts = [part(ids), part(read)]
    found = choose_for_new(parts, (2.0, 1.0), lambda rows: [None, part(read, rows)], repeated, every, NONE)
    others = cases.select(np.setdiff1d(np.arange(NUM_CASES), again))
    alone = choose_for_new(parts, (2.0, 1.0), lambda rows: [None, part(read, rows)], others, every, NONE)
    assert found is not None and alone is not None
    assert found.cases <= alone.cases and found.by_reader == pytest.approx(alone.by_reader, abs=0.02)


def test_ties_count_half_for_known_targets():
    rng = np.random.default_rng(0)
    count = 400
    scores = np.zeros((count, 60))  # one item above 0, all others tie
    scores[np.arange(count), rng.integers(0, 60, count)] = 1.0
    text = rng.normal(size=scores.shape)
    cases = EvaluationCases(
        Ragged.from_lists([[]] * count), rng.integers(0, 60, count).astype(np.int32), np.arange(count)
    )
    found = choose_for_new(
        [part(scores), part(text)], (1.0, 0.0), lambda rows: [None, part(text, rows)], cases, np.arange(60), NONE
    )
    assert found is not None and found.known_alone < 0.05


def test_parts_that_tell_nothing_apart_choose_nothing():
    count = 200
    rng = np.random.default_rng(0)
    flat = np.zeros((count, 30))
    targets = rng.integers(0, 30, count).astype(np.int32)
    cases = EvaluationCases(Ragged.from_lists([[]] * count), targets, np.arange(count))
    parts = [part(flat), part(flat)]
    assert choose_for_new(parts, (1.0, 0.0), lambda rows: [None, part(flat, rows)], cases, np.arange(30), NONE) is None
