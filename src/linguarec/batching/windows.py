"""Training windows: which part of a user's sequence is read at once, and at which positions the next item is predicted.

A causal encoder with positions from the left predicts from all prefixes of a sequence in one pass, so a user with at most
`max_length` + 1 items is one window. Beyond that, a prefix is cut to its last `max_length` items and its positions shift:

- exact: every further target gets its own window of the `max_length` items before it. The same rows as the published
  protocol, at a cost of `max_length` tokens per target.
- strided: windows end every `stride` items, and a window trains the targets that earlier windows did not cover. Their histories
  are `max_length - stride + 1` to `max_length` items long. The phase is redrawn each epoch, so that every target is
  sometimes trained with its full history.

An encoder that is not causal predicts from one prefix per pass: `training_pairs` draws one for every sequence.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """W windows over one flat array: read `start:stop`, predict the items `first_target:stop + 1`.

    Position j (from `start`) predicts item `start + j + 1`; positions before `first_target` - 1 have no loss.
    All are int64 [W]; `user` is the sequence that a window belongs to.
    """

    user: IntArray
    start: IntArray
    stop: IntArray
    first_target: IntArray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_targets(self) -> IntArray:
        """Targets of each window, [W]."""
        return self.stop - self.first_target + 1


def training_windows(offsets: IntArray, max_length: int, stride: int | None, generator: np.random.Generator) -> Windows:
    """Windows that cover every target (second to last item) of every sequence exactly once.

    Args:
        offsets: [B+1] bounds of the sequences in the flat array.
        max_length: longest window.
        stride: None = exact windows; else windows beyond the first end every `stride` items.
        generator: draws the phase of strided windows.
    """
    first, end = offsets[:-1], offsets[1:]
    lengths = end - first
    users = np.flatnonzero(lengths >= 2).astype(np.int64)
    first, inputs = first[users], lengths[users] - 1  # the last item is a target only
    head = np.minimum(inputs, max_length)
    head_windows = (users, first, first + head, first + 1)
    if stride is None:
        stops_each = inputs - head
        owner = np.repeat(np.arange(len(users)), stops_each)
        stop = first[owner] + head[owner] + 1 + _within(stops_each)
        tail_windows = (users[owner], stop - max_length, stop, stop)
    else:
        behind = inputs - head
        phase = np.minimum(generator.integers(1, stride + 1, size=len(users)), behind)
        stops_each = np.where(behind > 0, 1 + -(-(behind - phase) // stride), 0)
        owner = np.repeat(np.arange(len(users)), stops_each)
        index = _within(stops_each)
        reached = np.minimum(phase[owner] + index * stride, behind[owner])
        before = np.where(index == 0, 0, phase[owner] + (index - 1) * stride)
        stop = first[owner] + head[owner] + reached
        tail_windows = (users[owner], stop - max_length, stop, first[owner] + head[owner] + before + 1)
    return Windows(*(np.concatenate(pair) for pair in zip(head_windows, tail_windows, strict=True)))


def training_pairs(offsets: IntArray, max_length: int, second_half: bool, generator: np.random.Generator) -> Windows:
    """One window for every sequence of two or more items: a random target and the items before it.

    Args:
        offsets: [B+1] bounds of the sequences in the flat array.
        max_length: longest window.
        second_half: draw targets only from the middle item on; else from the whole sequence. Never the first item.
        generator: draws the targets.
    """
    lengths = np.diff(offsets)
    users = np.flatnonzero(lengths >= 2).astype(np.int64)
    first, lengths = offsets[users], lengths[users]
    earliest = np.maximum((lengths - 1) // 2, 1) if second_half else np.ones_like(lengths)
    target = first + generator.integers(earliest, lengths)
    return Windows(users, np.maximum(first, target - max_length), target, target)


def history_pairs(items: IntArray, positions: IntArray, targets: IntArray) -> IntArray:
    """The pairs (t, item) of each position t that has a target and each item of its history in the window, [P, 2].

    The history of t are the positions from the start of its window to t itself. An item that occurs in it several times is in
    several pairs.

    Args:
        items: [T] of all windows, concatenated.
        positions: [T] counted from the start of the window.
        targets: [T], -1 = no target.
    """
    asked = np.flatnonzero(targets >= 0)
    lengths = positions[asked] + 1
    position = np.repeat(asked, lengths)
    return np.stack([position, items[position - _within(lengths)]], axis=1)


def _within(counts: IntArray) -> IntArray:
    """0 to count - 1 for each count, concatenated."""
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)
