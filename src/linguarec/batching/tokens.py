"""Token batches of histories and items for Recformer, gathered from the tokens of the catalogue with array operations."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import SequenceBatch, TokenBatch
from linguarec.batching.histories import TOKENS_PER_BATCH, by_length
from linguarec.data.ragged import Ragged
from linguarec.data.splitting import user_blocks
from linguarec.text.attributes import ItemTokens

Integers = npt.NDArray[np.int64]


def history_tokens(tokens: ItemTokens, histories: Ragged, max_items: int, max_tokens: int) -> TokenBatch:
    """Each history as one sequence: `<s>`, then its items, the most recent one first and at item position 1.

    A history is cut to its last `max_items` items, then to `max_tokens` tokens with `<s>`: the oldest remaining item may lose
    tokens. An empty history is `<s>` alone. An item without tokens still takes an item position.

    Args:
        tokens: of the catalogue.
        histories: sequences of item rows, oldest first.
        max_items: most items of a history.
        max_tokens: most tokens of a sequence.
    """
    counts = np.minimum(histories.lengths, max_items)
    item_position = _running(counts) + 1
    rows = np.asarray(histories.values)[np.repeat(histories.offsets[1:], counts) - item_position].astype(np.int64)
    needed = tokens.offsets[rows + 1] - tokens.offsets[rows]
    before = np.cumsum(needed) - needed  # tokens of all earlier items, over all histories
    first_item = np.cumsum(counts) - counts
    # An empty history at the end begins after the last item.
    base = np.append(before, before[-1] + needed[-1] if len(before) else 0)[first_item]
    room = max_tokens - 1 - (before - np.repeat(base, counts))
    taken = np.clip(np.minimum(needed, room), 0, None)

    source = _running(taken) + np.repeat(tokens.offsets[rows], taken)
    history = np.repeat(np.arange(len(histories)), counts)
    lengths = 1 + np.bincount(history, weights=taken, minlength=len(histories)).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    of_item = np.ones(offsets[-1], dtype=bool)
    of_item[offsets[:-1]] = False
    ids = np.full(len(of_item), tokens.start, np.int64)
    types, positions = np.zeros_like(ids), np.zeros_like(ids)
    ids[of_item], types[of_item] = tokens.ids[source], tokens.types[source]
    positions[of_item] = np.repeat(item_position, taken)
    return TokenBatch(*(torch.from_numpy(values) for values in (ids, types, positions, offsets)))


def item_tokens(tokens: ItemTokens, rows: Integers, max_tokens: int) -> TokenBatch:
    """Each item as one sequence: a history of that item alone."""
    return history_tokens(tokens, Ragged(rows, np.arange(len(rows) + 1)), 1, max_tokens)


def cut_histories(lengths: Integers, histories: Ragged, max_items: int, max_tokens: int) -> dict[str, int]:
    """How many histories `history_tokens` cuts, and how many have no text; counted in blocks of histories.

    Args:
        lengths: tokens of each item [N].
        histories: sequences of item rows, oldest first.
        max_items: most items of a history.
        max_tokens: most tokens of a sequence.

    Returns:
        `over_<max_items>_items`; `over_<max_tokens>_tokens`: those whose last `max_items` items have more tokens, with `<s>`;
        `without_text`: those whose last `max_items` items have no tokens. A history may count in several.
    """
    over_tokens = without_text = 0
    for first, last in user_blocks(histories.offsets):
        offsets = histories.offsets[first : last + 1]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[histories.values[offsets[0] : offsets[-1]]])])
        begin = np.maximum(offsets[:-1], offsets[1:] - max_items) - offsets[0]
        tokens = ends[offsets[1:] - offsets[0]] - ends[begin]
        over_tokens += int((1 + tokens > max_tokens).sum())
        without_text += int((tokens[np.diff(offsets) > 0] == 0).sum())
    return {
        f"over_{max_items}_items": int((histories.lengths > max_items).sum()),
        f"over_{max_tokens}_tokens": over_tokens,
        "without_text": without_text,
    }


def cut_items(lengths: Integers, max_tokens: int) -> dict[str, int]:
    """How many items `item_tokens` cuts: `over_<max_tokens>_tokens`, `<s>` included."""
    return {f"over_{max_tokens}_tokens": int((1 + lengths > max_tokens).sum())}


def token_batches(
    tokens: ItemTokens,
    histories: Ragged,
    max_items: int,
    max_tokens: int,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Iterator[tuple[Integers, SequenceBatch]]:
    """Divide the histories into batches of at most `tokens_per_batch` tokens, those with fewest tokens first; no targets.

    Args:
        tokens: of the catalogue.
        histories: sequences of item rows, oldest first; an empty one is `<s>` alone.
        max_items: most items of a history.
        max_tokens: most tokens of a sequence.
        tokens_per_batch: most tokens of a batch.

    Yields:
        The indices [B] of the batch's histories, and the batch.
    """
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens.lengths[histories.values])])
    first = np.maximum(histories.offsets[:-1], histories.offsets[1:] - max_items)
    lengths = np.minimum(1 + ends[histories.offsets[1:]] - ends[first], max_tokens)
    for index in by_length(lengths, tokens_per_batch):
        part = histories.select(index)
        none = torch.full((len(index),), -1)
        items = torch.from_numpy(part.values.astype(np.int64))
        positions = torch.from_numpy(_running(part.lengths))
        read = history_tokens(tokens, part, max_items, max_tokens)
        yield (
            index,
            SequenceBatch(items, torch.from_numpy(part.offsets), positions, none, none, torch.zeros_like(none), read),
        )


def _running(lengths: Integers) -> Integers:
    """0, 1, 2 ... within each run of the given lengths, flat."""
    running: Integers = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return running
