"""Token batches: what a plain loop over items and tokens gives."""

import numpy as np
import pytest

from linguarec.batching.tokens import history_tokens, item_tokens
from linguarec.data.ragged import Ragged
from linguarec.text.attributes import ItemTokens

START = 101


@pytest.fixture
def catalogue() -> ItemTokens:
    """Item k has k tokens, so item 0 has none."""
    generator = np.random.default_rng(0)
    offsets = np.cumsum([0, *range(12)])
    return ItemTokens(
        generator.integers(1000, 2000, offsets[-1]).astype(np.uint16),
        generator.integers(1, 3, offsets[-1]).astype(np.uint8),
        offsets,
        START,
    )


def by_a_loop(catalogue: ItemTokens, history: list[int], max_items: int, max_tokens: int) -> list[tuple[int, int, int]]:
    """(id, type, item position) of each token of one history."""
    tokens = [(START, 0, 0)]
    for place, item in enumerate(history[::-1][:max_items], start=1):
        for at in range(catalogue.offsets[item], catalogue.offsets[item + 1]):
            tokens.append((int(catalogue.ids[at]), int(catalogue.types[at]), place))
    return tokens[:max_tokens]


@pytest.mark.parametrize(("max_items", "max_tokens"), [(50, 1024), (3, 1024), (50, 20), (50, 1), (2, 9)])
def test_histories_are_those_of_a_loop(catalogue: ItemTokens, max_items: int, max_tokens: int) -> None:
    generator = np.random.default_rng(1)
    histories = [generator.integers(0, 12, length).tolist() for length in (4, 0, 1, 60, 0, 7, 1, 51, 0)]
    histories += [[0], [0, 0, 3], [3, 0]]
    batch = history_tokens(catalogue, Ragged.from_lists(histories), max_items, max_tokens)
    assert len(batch) == len(histories)
    for row, history in enumerate(histories):
        part = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
        found = zip(*(values[part].tolist() for values in (batch.ids, batch.types, batch.item_positions)), strict=True)
        assert list(found) == by_a_loop(catalogue, history, max_items, max_tokens), row


def test_an_empty_history_is_the_start_token_alone(catalogue: ItemTokens) -> None:
    batch = history_tokens(catalogue, Ragged.from_lists([[]]), 50, 1024)
    assert (batch.ids.tolist(), batch.types.tolist(), batch.item_positions.tolist()) == ([START], [0], [0])
    assert batch.offsets.tolist() == [0, 1]


def test_no_histories_are_an_empty_batch(catalogue: ItemTokens) -> None:
    assert len(history_tokens(catalogue, Ragged.from_lists([]), 50, 1024)) == 0


def test_an_item_is_a_history_of_one(catalogue: ItemTokens) -> None:
    rows = np.array([5, 0, 11])
    batch = item_tokens(catalogue, rows, 8)
    assert batch.lengths.tolist() == [6, 1, 8]
    assert batch.ids[1:6].tolist() == catalogue.ids[10:15].tolist()
    assert batch.item_positions.tolist() == [0, *[1] * 5, 0, 0, *[1] * 7]
    assert batch.to("cpu").ids.tolist() == batch.ids.tolist()
