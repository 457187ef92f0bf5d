"""The exact ranker of item vectors: score = query . key."""

import math
import threading
import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from linguarec.ranking.exact import ExactRanker, removed_rows
from linguarec.ranking.ranker import IntArray

Keys: TypeAlias = Tensor | npt.NDArray[Any]

_SMALLEST_BUFFER = 1_024  # rows that a buffer of added keys has room for, at least
# Numbers gathered at once to score candidates exactly: 512 KB in float64, which stays in a core's cache; 128 MB on a GPU.
_GATHERED, _GATHERED_ON_GPU = 1 << 16, 1 << 24
_UNIT = 2.0**-24  # largest relative error of one rounding to float32
# A query of at least this width with at most one value in so many that is not zero is multiplied value by value.
_WIDE, _ONE_IN = 1_024, 32


class _Base:
    """The keys [N, D] that a ranker was made of, and the length of the longest.

    The length is computed when it is first asked for: opening a memory map reads nothing. Two threads that ask at the same
    time compute the same.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self._longest: float | None = None
        self._by_column: npt.NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    @property
    def longest(self) -> float:
        """NaN or infinite if a key is not finite."""
        if self._longest is None:
            self._longest = _longest(self.keys)
        return self._longest

    @property
    def by_column(self) -> npt.NDArray[np.float32]:
        """The keys as [D, N], each row in one piece: a copy as large as the keys, made once, when it is first asked for."""
        if self._by_column is None:
            with self._lock:
                if self._by_column is None:
                    self._by_column = self.keys.T.contiguous().numpy()
        return self._by_column


class _Buffer:
    """Room for added keys, filled from the front. Rows that are taken never change, so readers need no lock."""

    def __init__(self, rows: int, like: Tensor) -> None:
        with torch.inference_mode(False):  # what is made in that mode could not be written to outside of it
            self.keys = torch.empty(rows, like.shape[1], device=like.device)
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, first: int, rows: int) -> bool:
        """Reserve `rows` rows from `first` on: False if another snapshot took them, or there is no room."""
        with self._lock:
            if self._taken != first or first + rows > len(self.keys):
                return False
            self._taken += rows
            return True


@dataclass(frozen=True)
class _Added:
    """Successive added items: `keys` [n, D] are the first rows of `buffer`; `longest`: length of the longest key."""

    keys: Tensor
    longest: float
    buffer: _Buffer


class DenseRanker(ExactRanker[Tensor, Keys]):
    """Ranks by `query . key` in float32: queries [Q, D], keys [N, D].

    The keys it is made of are not copied, and may be a read-only memory map. Added keys go into buffers of their own, of
    which each has room for as many as all before it; snapshots share what they have in common.

    Args:
        keys: [N, D]; what is not float32 is converted once.

    Raises:
        ValueError: keys are not two-dimensional.
    """

    def __init__(self, keys: Keys) -> None:
        base = _tensor(keys)
        if base.ndim != 2:
            raise ValueError(f"keys must be [N, D], these are {list(base.shape)}")
        super().__init__(np.zeros(0, dtype=np.int64))
        self._base = _Base(base)
        self._added: tuple[_Added, ...] = ()
        self._length = len(base)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"DenseRanker({len(self):,} items of width {self.width}, {len(self.removed):,} of them removed)"

    @property
    def width(self) -> int:
        """D."""
        return self._base.keys.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the keys are."""
        return self._base.keys.device

    @property
    def keys(self) -> Tensor:
        """[N, D]; where items were added, a copy."""
        return self._base.keys if not self._added else torch.cat(self._parts())

    def keys_of(self, rows: Tensor) -> Tensor:
        """Keys [C, D] of the items `rows` [C]."""
        if self.device.type == "cpu":
            return torch.from_numpy(self._gather(rows.numpy()))
        return self.keys.index_select(0, rows)

    def _gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Keys [C, D], on the CPU, by NumPy: torch starts all threads for a few hundred rows, and waits for each of them."""
        if not self._added:
            return self._base.keys.numpy().take(rows, axis=0)
        found = np.empty((len(rows), self.width), dtype=np.float32)
        first = 0
        for keys in self._parts():
            here = np.flatnonzero((rows >= first) & (rows < first + len(keys)))
            found[here] = keys.numpy().take(rows[here] - first, axis=0)
            first += len(keys)
        return found

    # -- scores --------------------------------------------------------------------------------------------------------

    def count(self, queries: Tensor) -> int:
        """Q; see `ExactRanker`."""
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise ValueError(f"queries must be [Q, {self.width}], these are {list(queries.shape)}")
        return len(queries)

    def take(self, queries: Tensor, start: int, stop: int) -> Tensor:
        """The queries `start:stop`."""
        return queries[start:stop]

    def score(self, queries: Tensor, out: Tensor) -> None:
        """See `ExactRanker`: queries are filled up with zeros to the rows of `out`.

        Wide queries that are nearly all zeros, one value for each item of a history, are multiplied value by value on the
        CPU. Which way a query goes depends on it alone, so its scores do not depend on the others.
        """
        queries = queries.to(self.device, torch.float32)
        few = self._few_values(queries)
        if few.all():
            self._score_few(queries, out[: len(queries)])
            return
        filled = queries
        if len(out) > len(queries):
            filled = torch.cat([filled, filled.new_zeros(len(out) - len(queries), self.width)])
        first = 0
        for keys in self._parts():
            torch.mm(filled, keys.T, out=out[:, first : first + len(keys)])
            first += len(keys)
        if few.any():
            rows = torch.from_numpy(np.flatnonzero(few))
            scores = torch.empty(len(rows), out.shape[1])
            self._score_few(queries[rows], scores)
            out[rows] = scores

    def _few_values(self, queries: Tensor) -> npt.NDArray[np.bool_]:
        """[Q] which queries are better multiplied value by value."""
        if self.device.type != "cpu" or self.width < _WIDE or not len(queries):
            return np.zeros(len(queries), dtype=bool)
        few: npt.NDArray[np.bool_] = torch.count_nonzero(queries, dim=1).numpy() * _ONE_IN <= self.width
        return few

    def _score_few(self, queries: Tensor, out: Tensor) -> None:
        """Scores [Q, N] of queries that are nearly all zeros: for each of their values, a multiple of a column of the keys."""
        values = sparse.csr_array(queries.numpy())
        first = len(self._base.keys)
        out[:, :first] = torch.from_numpy(values @ self._base.by_column)
        used = np.unique(values.indices)
        few = values[:, used] if self._added else values
        for added in self._added:
            stop = first + len(added.keys)
            out[:, first:stop] = torch.from_numpy(few @ added.keys.numpy().T[used])
            first = stop

    def error(self, queries: Tensor) -> npt.NDArray[np.float64]:
        """See `ExactRanker`: a sum of n products is wrong by n roundings of |query| |key| at most, in any order.

        n is the number of a query's values that are not zero: the other products are exact, and so is adding them.
        """
        terms = torch.count_nonzero(queries, dim=1).cpu().numpy()
        error: npt.NDArray[np.float64] = (terms + 2) * _UNIT * self.largest(queries)
        if not np.isfinite(error).all():
            raise ValueError("queries or keys hold values that are not finite: the model has diverged")
        return error

    def largest(self, queries: Tensor) -> npt.NDArray[np.float64]:
        """See `ExactRanker`: |query| |key|."""
        longest = max([self._base.longest, *(added.longest for added in self._added)])
        lengths = torch.linalg.vector_norm(queries.float(), dim=1).cpu().numpy().astype(np.float64)
        return np.asarray(lengths * longest)

    def scores_of(self, queries: Tensor, rows: Tensor) -> Tensor:
        """See `ExactRanker`."""
        if self.device.type == "cpu":
            return torch.from_numpy(self._scores_on_cpu(queries.double().numpy(), rows.numpy()))
        wide = queries.to(self.device, torch.float64).unsqueeze(1)
        queries_at_once = max(1, _GATHERED_ON_GPU // max(1, self.width * rows.shape[1]))
        parts = [
            (self.keys_of(part.flatten()).view(*part.shape, self.width).double() * of_part).sum(dim=2)
            for part, of_part in zip(rows.split(queries_at_once), wide.split(queries_at_once), strict=True)
        ]
        return torch.cat(parts)

    def _scores_on_cpu(self, queries: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """`scores_of` in small steps through one buffer: fresh memory costs more than the arithmetic.

        Each row is summed up by itself and in the same order, wherever it stands: equal keys get equal scores.
        """
        found = np.empty(rows.shape)
        columns_at_once = max(1, min(_GATHERED // max(1, self.width), rows.shape[1]))
        queries_at_once = max(1, _GATHERED // max(1, self.width * columns_at_once))
        wide = np.empty((min(queries_at_once, len(rows)), columns_at_once, self.width))
        for start in range(0, len(rows), queries_at_once):
            for first in range(0, rows.shape[1], columns_at_once):
                part = slice(start, start + queries_at_once), slice(first, first + columns_at_once)
                listed = rows[part]
                keys = wide[: listed.shape[0], : listed.shape[1]]
                keys[:] = self._gather(listed.ravel()).reshape(keys.shape)
                np.einsum("qcd,qd->qc", keys, queries[part[0]], out=found[part])
        return found

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def subset(self, rows: npt.NDArray[np.int64]) -> "DenseRanker":
        """A ranker of these items alone, whose keys are copied."""
        return DenseRanker(self.keys_of(torch.from_numpy(rows).to(self.device)))

    def averaged(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """See `ExactRanker`: mean keys [n, D]."""
        flat = torch.from_numpy(rows.ravel()).to(self.device)
        return self.keys_of(flat).view(*rows.shape, self.width).float().mean(dim=1)

    def to(self, device: torch.device | str) -> "DenseRanker":
        """The same ranker, its keys copied to another device, or itself."""
        if torch.device(device) == self.device:
            return self
        return DenseRanker(self.keys.to(device)).with_removed(self.removed)

    def with_added(self, keys: Keys) -> "DenseRanker":
        """See `Ranker`; `keys` [n, D] are copied.

        Raises:
            ValueError: the width is not D, or a key is not finite.
        """
        new = _tensor(keys)
        if new.ndim != 2 or new.shape[1] != self.width:
            raise ValueError(f"new keys must be [n, {self.width}], these are {list(new.shape)}")
        longest = _longest(new)
        if not math.isfinite(longest):
            raise ValueError("new keys hold values that are not finite")
        before, last = self._added[:-1], self._added[-1] if self._added else None
        if last is not None and last.buffer.take(len(last.keys), len(new)):
            buffer, first, longest = last.buffer, len(last.keys), max(longest, last.longest)
        else:
            added = self._length - len(self._base.keys)
            buffer, first, before = _Buffer(max(len(new), added, _SMALLEST_BUFFER), self._base.keys), 0, self._added
            buffer.take(0, len(new))
        buffer.keys[first : first + len(new)] = new
        return self._snapshot((*before, _Added(buffer.keys[: first + len(new)], longest, buffer)), self.removed)

    def with_removed(self, rows: IntArray) -> "DenseRanker":
        """See `Ranker`."""
        return self._snapshot(self._added, removed_rows(self.removed, rows, len(self)))

    def extends(self, before: "DenseRanker") -> bool:
        """Whether this ranker was made of another one by adding and removing items, so that the first items are its own."""
        if self._base is not before._base or len(self._added) < len(before._added):
            return False
        return all(
            now.buffer is then.buffer and len(now.keys) >= len(then.keys)
            for now, then in zip(self._added, before._added, strict=False)
        )

    def _parts(self) -> list[Tensor]:
        return [self._base.keys, *(added.keys for added in self._added)]

    def _snapshot(self, added: tuple[_Added, ...], removed: npt.NDArray[np.int64]) -> "DenseRanker":
        made = DenseRanker.__new__(DenseRanker)
        ExactRanker.__init__(made, removed)
        made._base, made._added = self._base, added
        made._length = len(self._base.keys) + sum(len(each.keys) for each in added)
        return made


def _tensor(keys: Keys) -> Tensor:
    """Keys as float32, without a copy where they are that already."""
    if isinstance(keys, Tensor):
        return keys.detach().float()
    with warnings.catch_warnings():
        # torch has no read-only tensors. Nothing here writes into keys.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(keys)).float()


def _longest(keys: Tensor) -> float:
    return float(torch.linalg.vector_norm(keys, dim=1).max()) if len(keys) else 0.0
