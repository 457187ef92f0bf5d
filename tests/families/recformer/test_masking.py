"""Whole words are masked, in the published shares, and the same ones however the sequences are shared out."""

import numpy as np
import torch

from linguarec.batching.batches import TokenBatch
from linguarec.families.recformer.masking import WordMasking

START, MASK, VOCABULARY = 1, 2, 1000
CONTINUES = np.arange(VOCABULARY) % 3 == 0  # every third token continues a word


def batch(rows: int, length: int) -> TokenBatch:
    generator = np.random.default_rng(0)
    ids = generator.integers(3, VOCABULARY, (rows, length))
    types = np.tile(np.minimum(np.arange(length) % 7, 2).clip(1), (rows, 1))
    positions = np.tile(1 + np.arange(length) // 20, (rows, 1))
    ids[:, 0], types[:, 0], positions[:, 0] = START, 0, 0
    flat = (torch.from_numpy(part.reshape(-1)) for part in (ids, types, positions))
    return TokenBatch(*flat, torch.arange(rows + 1) * length)


def test_shares_and_labels() -> None:
    tokens = batch(400, 100)
    masked, labels = WordMasking(CONTINUES, MASK, seed=0).mask(tokens, 5, np.arange(400), 0)
    chosen = labels >= 0
    assert torch.equal(labels[chosen], tokens.ids[chosen])
    assert torch.equal(masked.ids[~chosen], tokens.ids[~chosen])
    assert not chosen[tokens.offsets[:-1]].any()
    assert abs(float(chosen.float().mean()) - 0.15) < 0.01
    now = masked.ids[chosen]
    assert abs(float((now == MASK).float().mean()) - 0.8) < 0.02
    assert abs(float((now == tokens.ids[chosen]).float().mean()) - 0.1) < 0.02


def test_words_are_whole_and_end_with_their_value() -> None:
    tokens = batch(50, 100)
    _, labels = WordMasking(CONTINUES, MASK, seed=0).mask(tokens, 0, np.arange(50), 0)
    chosen, checked = labels >= 0, 0
    for at in range(1, len(tokens.ids)):
        same = tokens.types[at] == tokens.types[at - 1] and tokens.item_positions[at] == tokens.item_positions[at - 1]
        if CONTINUES[tokens.ids[at]] and same:
            assert chosen[at] == chosen[at - 1]
            checked += 1
    assert checked > 500
    begins = ~torch.from_numpy(CONTINUES)[tokens.ids]
    assert (chosen[1:] & begins[1:] & ~chosen[:-1]).any()


def test_a_sequence_has_its_draws_alone_and_among_others_and_each_step_others() -> None:
    tokens, masking = batch(6, 40), WordMasking(CONTINUES, MASK, seed=0)
    masked, labels = masking.mask(tokens, 3, np.arange(6), 0)
    part = slice(80, 120)
    alone = TokenBatch(tokens.ids[part], tokens.types[part], tokens.item_positions[part], torch.tensor([0, 40]))
    again, its_labels = masking.mask(alone, 3, np.array([2]), 0)
    assert torch.equal(again.ids, masked.ids[part])
    assert torch.equal(its_labels, labels[part])
    for step, side in ((4, 0), (3, 1)):
        assert not torch.equal(masking.mask(tokens, step, np.arange(6), side)[1], labels)
