"""Ragged batches of histories for evaluation and recommendation, where only the last state is used."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import SequenceBatch
from linguarec.data.ragged import Ragged

TOKENS_PER_BATCH = 16_384


def history_batches(
    histories: Ragged,
    max_length: int,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    users: npt.NDArray[np.int64] | None = None,
    domain: int = 0,
) -> Iterator[tuple[npt.NDArray[np.int64], SequenceBatch]]:
    """Cut the histories, shortest first, into batches of at most `tokens_per_batch` tokens (at least one history each).

    A history longer than `max_length` is cut to its last `max_length` items, and positions count from 0 at the start
    of that window. There are no targets. The batches depend only on the arguments, so processes can divide them.

    Args:
        histories: sequences of item rows, oldest first; none empty.
        max_length: longest history that the model reads.
        tokens_per_batch: most tokens of a batch.
        users: [Q] user row of each history, or None (then -1).
        domain: stored in every batch.

    Yields:
        The indices [B] of the batch's histories, and the batch.

    Raises:
        ValueError: a history is empty.
    """
    lengths = np.minimum(histories.lengths, max_length)
    if len(lengths) and lengths.min() == 0:
        raise ValueError(f"history {int(np.argmin(lengths))} is empty; there is nothing to continue")
    for index in by_length(lengths, tokens_per_batch):
        yield index, _batch(histories, index, lengths[index], users, domain)


def by_length(lengths: npt.NDArray[np.int64], tokens_per_batch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of sequences, shortest first, in parts of at most `tokens_per_batch` tokens (at least one sequence each)."""
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        budget = tokens_per_batch + (ends[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(ends, budget, side="right")))
        yield order[start:stop]
        start = stop


def _batch(
    histories: Ragged,
    index: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    users: npt.NDArray[np.int64] | None,
    domain: int,
) -> SequenceBatch:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    first = histories.offsets[index + 1] - lengths
    items = histories.values[np.repeat(first, lengths) + positions].astype(np.int64)
    batch_users = np.full(len(index), -1) if users is None else users[index].astype(np.int64)
    return SequenceBatch(
        items=torch.from_numpy(items),
        offsets=torch.from_numpy(offsets),
        positions=torch.from_numpy(positions),
        targets=torch.full((len(items),), -1),
        users=torch.from_numpy(batch_users),
        domain=torch.full((len(index),), domain),
    )
