"""Training steps of masked items (the cloze task of BERT4Rec, arXiv 1904.06690): some places are hidden and predicted.

A window hides a fraction of its places, or, with some probability, its last place alone, which is how a history is continued
in use. How many it hides is drawn with the windows of the epoch; which ones is drawn with the step. All draws are named (see
`draws`), so they do not depend on the number of processes, and a resumed training repeats them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import SequenceBatch
from linguarec.batching.draws import uniform
from linguarec.batching.loader import TrainingLoader, tokens_of
from linguarec.batching.windows import Windows
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError

IntArray = npt.NDArray[np.int64]
_PLACE = 200  # the purpose of a random number, the first of the integers that name it


@dataclass(frozen=True)
class MaskedWindows(Windows):
    """Windows whose targets are places of their own: `hidden` [W] of the places `start:stop`.

    `with_last` [W]: whether the last place is certainly one of them. `first_target` is not used.
    """

    hidden: IntArray
    with_last: npt.NDArray[np.bool_]

    @property
    def num_targets(self) -> IntArray:
        """Targets of each window, [W]."""
        return self.hidden


def whole_windows(offsets: IntArray, max_length: int, stride: int) -> tuple[IntArray, IntArray, IntArray]:
    """Windows that together hold every item of every sequence of two or more items.

    The last `max_length` items of each sequence, and before them windows that end every `stride` items; the earliest begins
    with the sequence.

    Args:
        offsets: [B+1] bounds of the sequences in the flat array.
        max_length: longest window.
        stride: distance of the ends of windows, at most `max_length`.

    Returns:
        Sequence, start and stop of each window, [W] each.
    """
    lengths = np.diff(offsets)
    users = np.flatnonzero(lengths >= 2).astype(np.int64)
    first, lengths = offsets[users], lengths[users]
    number = 1 + -(-np.maximum(lengths - max_length, 0) // stride)
    owner = np.repeat(np.arange(len(users)), number)
    steps_back = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    start = np.maximum(first[owner], first[owner] + lengths[owner] - max_length - steps_back * stride)
    return users[owner], start, start + np.minimum(lengths, max_length)[owner]


class MaskedLoader(TrainingLoader):
    """Iterates over one epoch of `TrainingBatch` with masked places: `items` is -1 there, and `targets` is the hidden item.

    At all other places `targets` is -1. Every window is read once an epoch. Further arguments: see `TrainingLoader`.

    Args:
        mask_share: fraction of the places that a window hides, at least one and not all of them.
        last_share: fraction of the windows that hide their last place alone.
        stride: distance of the ends of the windows of a sequence beyond `max_length`; None = half of `max_length`.
    """

    def __init__(
        self,
        sequences: Ragged,
        max_length: int,
        targets_per_step: int,
        stride: int | None,
        mask_share: float,
        last_share: float,
        seed: int,
    ) -> None:
        self.mask_share, self.last_share = mask_share, last_share
        stride = min(stride or max(1, max_length // 2), max_length)
        super().__init__(sequences.values, sequences.offsets, max_length, targets_per_step, stride, seed)

    def _check(self) -> None:
        super()._check()
        if self.max_length < 2:
            raise SettingsError([f"max_length is {self.max_length}; with a place hidden, it must be at least 2"])

    def _draw(self, generator: np.random.Generator) -> MaskedWindows:
        assert self.stride is not None
        user, start, stop = whole_windows(self.offsets, self.max_length, self.stride)
        lengths = stop - start
        last_alone = generator.random(len(user)) < self.last_share
        share = np.clip(np.round(self.mask_share * lengths).astype(np.int64), 1, lengths - 1)
        return MaskedWindows(user, start, stop, stop, np.where(last_alone, 1, share), last_alone)

    def _sequences(self, part: IntArray, step: int) -> SequenceBatch:
        windows = self._windows
        assert isinstance(windows, MaskedWindows)
        flat, offsets, positions = tokens_of(windows.start[part], windows.stop[part])
        lengths = np.diff(offsets)
        draws = uniform(_PLACE, self.seed, step, np.repeat(part, lengths), positions)
        last = np.repeat(offsets[1:] - 1, lengths) == np.arange(len(flat))
        draws[last & np.repeat(windows.with_last[part], lengths)] = 1.0  # the highest of its window
        owner = np.repeat(np.arange(len(part)), lengths)
        by_draw = np.lexsort((draws, owner))  # the places of each window, the highest draw last
        hidden = np.zeros(len(flat), dtype=bool)
        hidden[by_draw[positions >= np.repeat(lengths - windows.hidden[part], lengths)]] = True
        items = self.items[flat].astype(np.int64)
        return SequenceBatch(
            items=torch.from_numpy(np.where(hidden, -1, items)),
            offsets=torch.from_numpy(offsets),
            positions=torch.from_numpy(positions),
            targets=torch.from_numpy(np.where(hidden, items, -1)),
            users=torch.from_numpy(windows.user[part]),
            domain=torch.zeros(len(part), dtype=torch.int64),
        )
