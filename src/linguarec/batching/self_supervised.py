"""Steps of self-supervision on one log (S3-Rec, arXiv 2008.07873): masked items, and segments against the rest of sequences.

Each user is one sequence an epoch, whose end is drawn anew: the paper's prefixes. The last place is hidden and a fraction of
the others. Beside it the same sequence is read with a segment hidden, and with all but the segment hidden. All draws are named
(see `draws`), so they do not depend on the number of processes, and a resumed training repeats them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import SequenceBatch
from linguarec.batching.draws import uniform
from linguarec.batching.loader import TrainingBatch
from linguarec.batching.masked import MaskedLoader, MaskedWindows
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError

_LENGTH, _START = 210, 211  # the purposes of random numbers, the first of the integers that name them


@dataclass(frozen=True)
class SelfSupervisedBatch:
    """One process's part of one step: B sequences, each to be read three times, both ways.

    `masked`: some places hidden, with their items as targets. `context`: a segment hidden. `segment`: all but that segment
    hidden. The latter two have no targets. `users` is -1 for a row that only keeps this process in step with the others: it
    has nothing shown and no target. `step`, `step_targets`: as in `TrainingBatch`.
    """

    masked: SequenceBatch
    context: SequenceBatch
    segment: SequenceBatch
    step: int
    step_targets: int

    def to(self, device: torch.device | str) -> "SelfSupervisedBatch":
        """The same batch on another device."""
        return replace(
            self, masked=self.masked.to(device), context=self.context.to(device), segment=self.segment.to(device)
        )


class PrefixLoader(MaskedLoader):
    """One window for every sequence of two or more items: a random end from the second item on, and the items before it.

    Its last place is hidden, and a fraction `mask_share` of the others.
    """

    def __init__(self, sequences: Ragged, max_length: int, targets_per_step: int, mask_share: float, seed: int) -> None:
        super().__init__(sequences, max_length, targets_per_step, None, mask_share, 1.0, seed)

    def _check(self) -> None:
        if self.targets_per_step < 2 * self.max_length or self.max_length < 2:
            raise SettingsError(
                [
                    f"a step (an accumulated part of self_supervision.targets_per_step) takes {self.targets_per_step} hidden "
                    f"places of sequences of up to {self.max_length}; it must take at least twice as many, and those at least 2"
                ]
            )

    def _draw(self, generator: np.random.Generator) -> MaskedWindows:
        user = np.flatnonzero(np.diff(self.offsets) >= 2).astype(np.int64)
        first = self.offsets[user]
        stop = generator.integers(first + 2, self.offsets[user + 1] + 1)
        start = np.maximum(first, stop - self.max_length)
        hidden = 1 + np.round(self.mask_share * (stop - start - 1)).astype(np.int64)
        return MaskedWindows(user, start, stop, stop, hidden, np.ones(len(user), dtype=bool))


class SelfSupervisedLoader:
    """Iterates over one epoch of `SelfSupervisedBatch`; `state_dict` holds the position.

    Args:
        steps: the sequences of each step with hidden places.
    """

    def __init__(self, steps: PrefixLoader) -> None:
        self.steps = steps

    def shard(self, rank: int, processes: int) -> None:
        """Take every `processes`-th sequence of each step, from `rank` on."""
        self.steps.shard(rank, processes)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[SelfSupervisedBatch]:
        for batch in self.steps:
            yield self._three_readings(batch)

    def state_dict(self) -> dict[str, int]:
        """The position of the next batch."""
        return self.steps.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position that `state_dict` returned."""
        self.steps.load_state_dict(state)

    def _three_readings(self, batch: TrainingBatch) -> SelfSupervisedBatch:
        masked = batch.sequences
        if batch.loss_scale == 0:
            nothing = torch.full_like(masked.items, -1)
            masked = replace(masked, items=nothing, targets=nothing, users=torch.full_like(masked.users, -1))
        whole = torch.where(masked.items < 0, masked.targets, masked.items)
        inside = torch.from_numpy(self._segments(batch))
        unasked = replace(masked, targets=torch.full_like(masked.targets, -1))
        return SelfSupervisedBatch(
            masked=masked,
            context=replace(unasked, items=whole.masked_fill(inside, -1)),
            segment=replace(unasked, items=whole.masked_fill(~inside, -1)),
            step=batch.step,
            step_targets=batch.step_targets,
        )

    def _segments(self, batch: TrainingBatch) -> npt.NDArray[np.bool_]:
        """[T] whether a place is in the segment of its sequence: 1 to n/2 places of n, at a uniform start."""
        lengths = np.diff(batch.sequences.offsets.numpy())
        name = (self.steps.seed, batch.step, batch.windows)
        length = 1 + (uniform(_LENGTH, *name) * np.maximum(lengths // 2, 1)).astype(np.int64)
        start = (uniform(_START, *name) * (lengths - length + 1)).astype(np.int64)
        place = batch.sequences.positions.numpy()
        inside: npt.NDArray[np.bool_] = (place >= np.repeat(start, lengths)) & (
            place < np.repeat(start + length, lengths)
        )
        return inside
