"""Token batches: what a plain loop over items and tokens gives."""

from functools import partial

import numpy as np
import pytest

from linguarec.batching import tokens as tokens_module
from linguarec.batching.tokens import cut_histories, cut_items, history_tokens, item_tokens
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


@pytest.mark.parametrize("block", [1, 70, 10_000])
@pytest.mark.parametrize(("max_items", "max_tokens"), [(50, 1024), (3, 20), (50, 20), (2, 9), (1, 1)])
def test_what_is_cut_is_counted(
    catalogue: ItemTokens, max_items: int, max_tokens: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "user_blocks", partial(tokens_module.user_blocks, size=block))
    generator = np.random.default_rng(1)
    histories = [generator.integers(0, 12, length).tolist() for length in (4, 0, 1, 60, 0, 7, 1, 51, 2, 3, 50, 0)]
    histories += [[0], [0, 0, 3], [3, 0], [9, 9, 1]]
    ragged = Ragged.from_lists(histories)
    found = cut_histories(catalogue.lengths, ragged, max_items, max_tokens)
    read, room = (history_tokens(catalogue, ragged, max_items, most).lengths for most in (max_tokens, 10_000))
    assert found == {
        f"over_{max_items}_items": sum(len(history) > max_items for history in histories),
        f"over_{max_tokens}_tokens": int((read < room).sum()),
        "without_text": sum(len(history) > 0 and length == 1 for history, length in zip(histories, room, strict=True)),
    }
    rows = np.arange(12)
    short, whole = (item_tokens(catalogue, rows, most).lengths for most in (max_tokens, 10_000))
    assert cut_items(catalogue.lengths, max_tokens) == {f"over_{max_tokens}_tokens": int((short < whole).sum())}


def test_histories_without_text_are_counted() -> None:
    """Items 0 and 2 have no tokens; of the last history the two items that are read."""
    histories = Ragged.from_lists([[0, 2], [0, 1], [], [1, 2, 0]])
    assert cut_histories(np.array([0, 3, 0]), histories, 2, 9)["without_text"] == 2


def test_the_first_token_counts(catalogue: ItemTokens) -> None:
    """Items 5, 4 and 3 have 12 tokens; with `<s>` 13."""
    histories = Ragged.from_lists([[5, 4, 3]])
    assert cut_histories(catalogue.lengths, histories, 3, 13) == {
        "over_3_items": 0,
        "over_13_tokens": 0,
        "without_text": 0,
    }
    assert cut_histories(catalogue.lengths, histories, 3, 12) == {
        "over_3_items": 0,
        "over_12_tokens": 1,
        "without_text": 0,
    }
    # Of what is over 2 items, the 7 tokens that are left fit.
    assert cut_histories(catalogue.lengths, histories, 2, 8) == {
        "over_2_items": 1,
        "over_8_tokens": 0,
        "without_text": 0,
    }
    assert cut_items(catalogue.lengths, 11) == {"over_11_tokens": 1}
    none = Ragged.from_lists([])
    assert cut_histories(catalogue.lengths, none, 2, 8) == {"over_2_items": 0, "over_8_tokens": 0, "without_text": 0}


def test_an_item_is_a_history_of_one(catalogue: ItemTokens) -> None:
    rows = np.array([5, 0, 11])
    batch = item_tokens(catalogue, rows, 8)
    assert batch.lengths.tolist() == [6, 1, 8]
    assert batch.ids[1:6].tolist() == catalogue.ids[10:15].tolist()
    assert batch.item_positions.tolist() == [0, *[1] * 5, 0, 0, *[1] * 7]
    assert batch.to("cpu").ids.tolist() == batch.ids.tolist()
