"""Training steps as ragged batches: they follow from (seed, epoch, step) alone and are split evenly over processes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import SequenceBatch
from linguarec.batching.ties import shuffle_ties
from linguarec.batching.windows import Windows, history_pairs, training_windows
from linguarec.errors import SettingsError


@dataclass(frozen=True)
class TrainingBatch:
    """One process's part of one step.

    `loss_scale` weights the mean over this part's targets: it is the fraction of the step's targets that are in this part,
    times the number of processes, so that averaging gradients over processes gives the gradient of the whole step. It is 1 for
    a single process. `step` counts from the start of the training; random draws of the step are seeded by it. `step_targets`:
    all targets of the step, over all processes. `windows` [B]: number of each sequence's window in its epoch; it does not
    depend on the number of processes.
    """

    sequences: SequenceBatch
    loss_scale: float
    step: int
    step_targets: int
    windows: npt.NDArray[np.int64]

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """The same batch on another device."""
        return replace(self, sequences=self.sequences.to(device))


class TrainingLoader:
    """Iterates over one epoch of `TrainingBatch`; `state_dict` holds the position.

    The order of an epoch depends only on seed and epoch, not on the process or on earlier draws, so a resumed run sees the same
    batches as an uninterrupted one.

    Args:
        items: [T] int32 catalogue rows, all training sequences concatenated.
        offsets: [B+1] bounds of the sequences.
        max_length: longest history.
        targets_per_step: approximate number of targets of one step over all processes (of one part, if steps are accumulated);
            windows are not split; at least twice `max_length`, so that every epoch has the same number of steps.
        stride: None = exact windows beyond `max_length`; see `linguarec.batching.windows`.
        seed: of the shuffling.
        exclude_history: the items of a position's history in its window are left out of its softmax.
        times: [T] timestamps; the items of a sequence with equal ones come in a new random order in every epoch. None = the
            order of the items is fixed.
    """

    def __init__(
        self,
        items: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        max_length: int,
        targets_per_step: int,
        stride: int | None,
        seed: int,
        exclude_history: bool = False,
        times: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.items = items
        self._in_order, self._times = items, times
        self.offsets = np.asarray(offsets)
        self.max_length = max_length
        self.targets_per_step = targets_per_step
        self.stride = stride
        self.seed = seed
        self.exclude_history = exclude_history
        self.rank, self.processes = 0, 1
        self.epoch = 0
        self.next_step = 0
        self._num_steps = 0
        self._check()
        self._windows, self._steps = self._plan(0)
        self._num_steps = len(self._steps)

    def shard(self, rank: int, processes: int) -> None:
        """Take every `processes`-th window of each step, from `rank` on."""
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[TrainingBatch]:
        if self.next_step >= len(self._steps):  # the last epoch was read to its end
            self.epoch, self.next_step = self.epoch + 1, 0
        self._windows, self._steps = self._plan(self.epoch)
        while self.next_step < len(self._steps):
            self.next_step += 1  # before the batch is used, so that a state saved after the step points to the next one
            yield self._batch(self.next_step - 1)

    def state_dict(self) -> dict[str, int]:
        """The position of the next batch."""
        return {"epoch": self.epoch, "next_step": self.next_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position that `state_dict` returned."""
        self.epoch, self.next_step = state["epoch"], state["next_step"]
        self._windows, self._steps = self._plan(self.epoch)

    def _check(self) -> None:
        if self.targets_per_step < 2 * self.max_length:
            raise SettingsError(
                [
                    f"a step (an accumulated part of training.targets_per_step) takes {self.targets_per_step} targets; it must "
                    f"be at least 2 * max_length = {2 * self.max_length}"
                ]
            )

    def _plan(self, epoch: int) -> tuple[Windows, list[npt.NDArray[np.int64]]]:
        """The windows of an epoch and, for each step, the indices of its windows (ordered by length)."""
        generator = np.random.default_rng([self.seed, epoch])
        if self._times is not None:
            self.items = shuffle_ties(self._in_order, self._times, self.offsets, generator)
        windows = self._draw(generator)
        lengths = windows.stop - windows.start
        steps = self._divide(windows, generator)
        return windows, [part[np.argsort(lengths[part], kind="stable")] for part in steps]

    def _draw(self, generator: np.random.Generator) -> Windows:
        """The windows of an epoch."""
        return training_windows(self.offsets, self.max_length, self.stride, generator)

    def _divide(self, windows: Windows, generator: np.random.Generator) -> list[npt.NDArray[np.int64]]:
        """For each step of an epoch the indices of its windows."""
        return self._cut(generator.permutation(len(windows)), windows)

    def _cut(
        self, order: npt.NDArray[np.int64], windows: Windows, steps: int | None = None
    ) -> list[npt.NDArray[np.int64]]:
        """The windows `order` in consecutive steps of about as many targets; `steps` None = as many as every epoch has."""
        targets = np.cumsum(windows.num_targets[order])
        total = int(targets[-1]) if len(targets) else 0
        steps = steps or self._num_steps or self._count(total)
        return np.split(order, np.searchsorted(targets, np.arange(1, steps) * total / steps, side="right"))

    def _count(self, targets: int) -> int:
        """How many steps so many targets make."""
        return max(1, round(targets / self.targets_per_step))

    def _batch(self, index: int) -> TrainingBatch:
        whole = self._steps[index]
        part = whole[self.rank :: self.processes]
        windows = self._windows
        num_targets = windows.num_targets
        step_targets = int(num_targets[whole].sum())
        share = num_targets[part].sum() * self.processes / step_targets
        idle = (
            len(part) == 0
        )  # fewer windows than processes: this one runs a window without targets, so that all processes stay in step
        part = whole[:1] if idle else part
        step = self.epoch * len(self._steps) + index
        sequences = self._sequences(part, step)
        if idle:
            sequences = replace(sequences, targets=torch.full_like(sequences.targets, -1))
        return TrainingBatch(sequences, float(share), step, step_targets, part)

    def _sequences(self, part: npt.NDArray[np.int64], step: int) -> SequenceBatch:
        """The windows `part` with their targets; `step` names random draws."""
        windows = self._windows
        start, stop, first_target = windows.start[part], windows.stop[part], windows.first_target[part]
        flat, offsets, positions = tokens_of(start, stop)
        items, targets = self.items[flat].astype(np.int64), self.items[flat + 1].astype(np.int64)
        targets[flat + 1 < np.repeat(first_target, stop - start)] = -1
        excluded = torch.from_numpy(history_pairs(items, positions, targets)) if self.exclude_history else None
        return SequenceBatch(
            items=torch.from_numpy(items),
            offsets=torch.from_numpy(offsets),
            positions=torch.from_numpy(positions),
            targets=torch.from_numpy(targets),
            users=torch.from_numpy(windows.user[part]),
            domain=torch.zeros(len(part), dtype=torch.int64),
            excluded=excluded,
        )


def tokens_of(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The tokens of B parts `start:stop` of a flat array: their indices in it [T], offsets [B+1], positions [T]."""
    lengths = stop - start
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return positions + np.repeat(start, lengths), offsets, positions
