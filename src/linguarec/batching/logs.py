"""The training sequences of several prepared folders as one log, with consecutive item numbers over all folders.

An item's number is its row in its folder plus the number of items of the earlier folders. Nothing is renumbered on disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import draw_users, training_sequences
from linguarec.errors import DataFormatError


@dataclass(frozen=True, eq=False)
class TrainingLog:
    """The training data of one folder: `sequences` of item rows, one per user; `num_items` of the folder's catalogue."""

    name: str
    sequences: Ragged
    num_items: int

    @classmethod
    def of(cls, dataset: PreparedDataset, split: str, users: float = 1.0, seed: int = 0) -> "TrainingLog":
        """The training part of `split` of a folder.

        Args:
            dataset: prepared folder.
            split: which interactions train.
            users: fraction of the users, drawn with `seed`.
            seed: seed of that draw.

        Raises:
            DataFormatError: the folder has no such split, or no user with two training items.
        """
        sequences = training_sequences(dataset.sequences, dataset.roles(split))
        if users < 1:
            sequences = sequences.select(draw_users(dataset.num_users, users, seed))
        log = cls(dataset.name, sequences, dataset.num_items)
        if log.num_targets == 0:
            raise DataFormatError(
                f"{dataset.path}: split {split!r} leaves no user with two training items; leave this folder out, or prepare it "
                "with more data."
            )
        return log

    @property
    def num_targets(self) -> int:
        """Next-item targets of an epoch: all items except the first of each sequence."""
        return int(np.maximum(self.sequences.lengths - 1, 0).sum())


class TrainingLogs:
    """Several logs as one. The index of a log in `logs` is the `domain` of its items and sequences."""

    def __init__(self, logs: Sequence[TrainingLog]) -> None:
        self.logs = list(logs)

    def __len__(self) -> int:
        return len(self.logs)

    @cached_property
    def sequences(self) -> Ragged:
        """All training sequences, item numbers int32."""
        first_item = np.cumsum([0, *(log.num_items for log in self.logs)])
        values = [
            np.asarray(log.sequences.values, dtype=np.int32) + np.int32(first)
            for log, first in zip(self.logs, first_item[:-1], strict=True)
        ]
        lengths = [log.sequences.lengths for log in self.logs]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
        return Ragged(np.concatenate(values), offsets)

    @cached_property
    def domain_of_sequence(self) -> npt.NDArray[np.int64]:
        """Index of the log that each sequence belongs to."""
        return np.repeat(np.arange(len(self.logs)), [len(log.sequences) for log in self.logs])

    @property
    def num_targets(self) -> int:
        """Next-item targets of all logs."""
        return sum(log.num_targets for log in self.logs)
