"""Inputs of the sequence encoder: the vector that a model made of each item, or the item's tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.arrays import save_array
from linguarec.errors import CheckpointMismatchError
from linguarec.files import writing_file
from linguarec.sources.tokens import TokenSource
from linguarec.stored import AGAIN, read_array

INPUTS_FILE = "inputs.npy"


class HistoryInputs(Protocol):
    """N items as inputs of the sequence encoder; a history is a list of their rows."""

    def __len__(self) -> int: ...

    def select(self, rows: npt.NDArray[np.int64]) -> Self:
        """The items at `rows`, in that order."""

    def joined(self, other: Self) -> Self:
        """The items of both, these before those of `other`."""

    def to(self, device: torch.device | str) -> Self:
        """The same inputs on another device, or unchanged if they are moved batch by batch."""

    def save(self, folder: Path, raw_ids: Sequence[str]) -> None:
        """Write them into a run folder."""


class VectorInputs:
    """Vectors [N, D], one per item: a base, which may be a memory map, and added vectors.

    `file`: that the base was opened from. Its vectors are checked to be finite when they are read, not all at once.
    """

    def __init__(self, base: Tensor, added: Tensor | None = None, file: Path | None = None) -> None:
        self.base = base
        self.added = base[:0] if added is None else added
        self.file = file

    def __len__(self) -> int:
        return len(self.base) + len(self.added)

    def rows(self, rows: Tensor) -> Tensor:
        """The vectors [T, D] at `rows` [T] int64; nothing else is read.

        Raises:
            CheckpointMismatchError: one of them, of the file, is not finite.
        """
        if not len(self.added):
            found = self.base.index_select(0, rows)
        else:
            of_base = rows < len(self.base)
            found = self.base.new_empty(len(rows), self.base.shape[1])
            found[of_base] = self.base.index_select(0, rows[of_base])
            found[~of_base] = self.added.index_select(0, rows[~of_base] - len(self.base))
        if self.file is not None and not found.isfinite().all():
            bad = rows[~found.isfinite().all(dim=1)]
            raise CheckpointMismatchError(f"{self.file} holds NaN or an infinity in row {int(bad[0])}. {AGAIN}")
        return found

    def select(self, rows: npt.NDArray[np.int64]) -> "VectorInputs":
        """The items at `rows`, in that order."""
        return VectorInputs(self.rows(torch.from_numpy(rows).to(self.base.device)))

    def joined(self, other: "VectorInputs") -> "VectorInputs":
        """The items of both; the base is shared, not copied."""
        return VectorInputs(self.base, torch.cat([self.added, other.base.to(self.base.device), other.added]), self.file)

    def to(self, device: torch.device | str) -> "VectorInputs":
        """The same on another device."""
        return VectorInputs(self.base.to(device), self.added.to(device), self.file)

    def save(self, folder: Path, raw_ids: Sequence[str]) -> None:
        """Write the vectors."""
        whole = self.base if not len(self.added) else torch.cat([self.base, self.added])
        vectors = whole.float().cpu().numpy()
        with writing_file(folder / INPUTS_FILE, vectors.nbytes) as temporary:
            save_array(temporary, vectors)

    @classmethod
    def load(cls, folder: Path) -> "VectorInputs":
        """Open the vectors as a memory map.

        Raises:
            CheckpointMismatchError: the file is missing or damaged.
        """
        file = folder / INPUTS_FILE
        return cls(mapped_tensor(file), file=file)


class TokenInputs:
    """The tokens of items, for models that read histories as tokens."""

    def __init__(self, source: TokenSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def select(self, rows: npt.NDArray[np.int64]) -> "TokenInputs":
        """The items at `rows`, in that order."""
        return TokenInputs(self.source.select(rows))

    def joined(self, other: "TokenInputs") -> "TokenInputs":
        """The items of both."""
        return TokenInputs(self.source.joined(other.source))

    def to(self, device: torch.device | str) -> "TokenInputs":
        """The same object: tokens are moved batch by batch."""
        return self

    def save(self, folder: Path, raw_ids: Sequence[str]) -> None:
        """Write the tokens."""
        self.source.save_items(folder, raw_ids)


def mapped_tensor(file: Path) -> Tensor:
    """The vectors in a NumPy file as a read-only memory-mapped tensor [N, D].

    Raises:
        CheckpointMismatchError: the file is missing or damaged.
    """
    import warnings

    array = read_array(file, CheckpointMismatchError, AGAIN, mapped=True, dtype=np.float32, shape=(None, None))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
