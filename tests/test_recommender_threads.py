"""A recommender that many threads ask while its catalogue changes: each answer fits one state of the catalogue."""

import threading

import numpy as np
import pytest
import torch
from prepared import untrained

from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.embeddings import EmbeddingSource

NUM_ITEMS, WIDTH, READERS = 40, 12, 8
BATCHES, BATCH = 50, 20  # 1,000 items are added, and all but the last batch removed
ALL = NUM_ITEMS + BATCHES * BATCH
HISTORY = ["i3", "i7", "i1"]
BASE = {f"i{row}" for row in range(NUM_ITEMS)}
VECTORS = np.random.default_rng(1).standard_normal((BATCHES * BATCH, WIDTH)).astype(np.float32)


def added_ids(batch):
    return [f"new-{batch}-{number}" for number in range(BATCH)]


def add(recommender, batch):
    items = [{"raw_id": raw_id, "text": raw_id} for raw_id in added_ids(batch)]
    recommender.add_items(items, VECTORS[batch * BATCH : (batch + 1) * BATCH])


@pytest.fixture
def make(make_dataset):
    """Makes the same recommender at every call."""
    vectors = np.random.default_rng(0).standard_normal((NUM_ITEMS, WIDTH)).astype(np.float32)
    texts = [f"Thing number {row}." for row in range(NUM_ITEMS)]
    dataset = make_dataset([[0, 1, 2]], texts=texts, features={"enc": vectors})

    def made():
        torch.manual_seed(0)
        family = FAMILIES["sasrec-text"]
        encoder = TransformerConfig(hidden_size=16, layers=1, heads=2, inner_size=16, max_length=6)
        description = ModelDescription(family, family.config(), encoder, CatalogueShape(NUM_ITEMS, WIDTH, 4, 8))
        return untrained(description, dataset, EmbeddingSource.stored(dataset, "enc"))

    return made


def state_of(found):
    """The added batches in an answer that ranks all items; None = the answer fits no state of the catalogue."""
    batches = {}
    for raw_id in found:
        if raw_id not in BASE:
            _, batch, number = raw_id.split("-")
            batches.setdefault(int(batch), set()).add(int(number))
    whole = all(numbers == set(range(BATCH)) for numbers in batches.values())
    present = sorted(batches)
    in_order = len(present) <= 2 and (len(present) < 2 or present[1] == present[0] + 1)
    return present if whole and in_order else None


def test_eight_threads_recommend_while_one_adds_and_removes_1000_items(make):
    every = make()
    for batch in range(BATCHES):
        add(every, batch)
    scores = {found.raw_id: found.score for found in every.recommend([HISTORY], k=ALL, exclude_seen=False)[0]}
    similar = {found.raw_id: found.score for found in every.similar_items(["i3"], k=ALL)[0]}
    assert len(scores) == ALL

    recommender = make()
    done, faults, answers = threading.Event(), [], [0] * READERS

    def read(number):
        newest = -1
        expected = similar if number % 4 == 3 else scores
        while not (done.is_set() and answers[number]) and not faults:
            try:
                if number % 4 == 3:
                    [row] = recommender.similar_items(["i3"], k=ALL)
                else:
                    [row] = recommender.recommend([HISTORY], k=ALL, exclude_seen=False)
            except Exception as error:  # noqa: BLE001 - the test names it
                faults.append(f"thread {number}: {error!r}")
                return
            found = {item.raw_id: item.score for item in row}
            state = state_of(found)
            if state is None or len(found) != len(row) or not set(expected) & BASE <= set(found):
                faults.append(
                    f"thread {number}: an answer that fits no state of the catalogue: {sorted(set(found) - BASE)}"
                )
            elif state and state[-1] < newest:
                faults.append(f"thread {number}: batch {state[-1]} was answered after batch {newest}")
            elif wrong := [raw_id for raw_id, score in found.items() if abs(score - expected[raw_id]) > 1e-4]:
                faults.append(f"thread {number}: scores of other items: {wrong[:3]}")
            newest = state[-1] if state else newest
            answers[number] += 1

    readers = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for reader in readers:
        reader.start()
    for batch in range(BATCHES):
        add(recommender, batch)
        if batch:
            recommender.remove_items(added_ids(batch - 1))
    done.set()
    for reader in readers:
        reader.join(timeout=60)
    assert not faults
    assert min(answers) >= 1
    [row] = recommender.recommend([HISTORY], k=ALL, exclude_seen=False)
    assert {item.raw_id for item in row} == BASE | set(added_ids(BATCHES - 1))
    assert len(recommender.catalogue) == ALL  # removed items stay readable in histories
