"""A recommender that many threads ask while its catalogue changes: each answer fits one state of the catalogue."""

import threading
import time

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


def version_of(found):
    """The number of the change after which the catalogue gives this answer; None = it does so after none.

    Batch n is added by change 2n (batch 0 by change 1), and batch n - 1 removed by change 2n + 1.
    """
    batches = {}
    for raw_id in found:
        if raw_id not in BASE:
            _, batch, number = raw_id.split("-")
            batches.setdefault(int(batch), set()).add(int(number))
    if any(numbers != set(range(BATCH)) for numbers in batches.values()):
        return None
    match sorted(batches):
        case []:
            return 0
        case [newest]:
            return 2 * newest + 1
        case [before, newest] if newest == before + 1:
            return 2 * newest
    return None


def test_eight_threads_recommend_while_one_adds_and_removes_1000_items(make):
    every = make()
    for batch in range(BATCHES):
        add(every, batch)
    scores = {found.raw_id: found.score for found in every.recommend([HISTORY], k=ALL, exclude_seen=False)[0]}
    similar = {found.raw_id: found.score for found in every.similar_items(["i3"], k=ALL)[0]}
    assert len(scores) == ALL

    recommender = make()
    done, faults, seen = threading.Event(), [], [[] for _ in range(READERS)]  # versions that each thread saw, in order

    def read(number):
        expected = similar if number % 4 == 3 else scores
        while not done.is_set() and not faults:
            try:
                if number % 4 == 3:
                    [row] = recommender.similar_items(["i3"], k=ALL)
                else:
                    [row] = recommender.recommend([HISTORY], k=ALL, exclude_seen=False)
            except Exception as error:  # noqa: BLE001 - the test names it
                faults.append(f"thread {number}: {error!r}")
                return
            found = {item.raw_id: item.score for item in row}
            version = version_of(found)
            if version is None or len(found) != len(row) or not set(expected) & BASE <= set(found):
                faults.append(
                    f"thread {number}: an answer that fits no state of the catalogue: {sorted(set(found) - BASE)}"
                )
            elif seen[number] and version < seen[number][-1]:
                faults.append(f"thread {number}: version {version} was answered after version {seen[number][-1]}")
            elif wrong := [raw_id for raw_id, score in found.items() if abs(score - expected[raw_id]) > 1e-4]:
                faults.append(f"thread {number}: scores of other items: {wrong[:3]}")
            seen[number].append(version)

    def wait_for_answers():
        before, deadline = [len(versions) for versions in seen], time.monotonic() + 60
        while any(len(versions) < count + 2 for versions, count in zip(seen, before, strict=True)) and not faults:
            assert time.monotonic() < deadline, "a reader hangs"
            time.sleep(0.001)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for reader in readers:
        reader.start()
    try:
        for batch in range(BATCHES):
            add(recommender, batch)
            if batch:
                recommender.remove_items(added_ids(batch - 1))
            if batch % 10 == 9:  # however threads are scheduled, each reader answers between changes
                wait_for_answers()
    finally:
        done.set()
        for reader in readers:
            reader.join(timeout=60)
    assert not faults
    assert not any(reader.is_alive() for reader in readers)
    assert all(len(set(versions)) >= BATCHES // 10 for versions in seen)
    [row] = recommender.recommend([HISTORY], k=ALL, exclude_seen=False)
    assert {item.raw_id for item in row} == BASE | set(added_ids(BATCHES - 1))
    assert len(recommender.catalogue) == ALL  # removed items stay readable in histories
