"""A weighted sum of rankers of the same items, which is a ranker: a blend."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.ranker import IntArray

_COMPARABLE = 10  # items that stand for a new one
Queries: TypeAlias = tuple[Any, ...]  # one set of Q queries for each part, of the kind that the part takes


@dataclass(frozen=True)
class NewItems:
    """How items that occur in no training sequence are scored: by `weights` of their own, one a part, plus `offset`.

    `rows`: which items these are, ascending. Some parts know such items by their text, others by what is nearest to them, and
    neither gives them scores like those of known items. Chosen by `linguarec.evaluation.new_items`.
    """

    weights: tuple[float, ...]
    offset: float = 0.0
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not np.isfinite([*self.weights, self.offset]).all():
            raise ValueError(f"weights and offset must be finite, these are {list(self.weights)} and {self.offset}")


class SumRanker(ExactRanker[Queries, tuple[Any, ...]]):
    """Ranks by the weighted sum of the scores of its parts, exactly: the parts' exact scores are summed in float64.

    Scores of dense parts are summed, which needs no copy of their keys, as queries and keys side by side would.

    Args:
        parts: rankers of the same N items, with the same ones removed.
        weights: one for each part.
        new: of new items, with as many weights; None = they are scored like the others.

    Raises:
        ValueError: there are no parts, they differ in their items, or a weight is not finite.
    """

    def __init__(
        self, parts: Sequence[ExactRanker[Any, Any]], weights: Sequence[float], new: NewItems | None = None
    ) -> None:
        if not parts or len(parts) != len(weights):
            raise ValueError(f"{len(parts)} parts and {len(weights)} weights must be equally many, and at least one")
        if not np.isfinite(weights).all():
            raise ValueError(f"weights must be finite, these are {list(weights)}")
        if new is not None and len(new.weights) != len(parts):
            raise ValueError(f"{len(parts)} parts and {len(new.weights)} weights of new items must be equally many")
        first = parts[0]
        for part in parts[1:]:
            if len(part) != len(first) or not np.array_equal(part.removed, first.removed):
                raise ValueError(f"parts must rank the same items: {first!r} and {part!r}")
            if part.device != first.device:
                raise ValueError(f"parts must be on one device, they are on {first.device} and {part.device}")
        super().__init__(first.removed)
        self.parts = tuple(parts)
        self.weights = tuple(float(weight) for weight in weights)
        self.new = NewItems(self.weights) if new is None else new
        self._new_rows = torch.tensor(self.new.rows, dtype=torch.int64, device=first.device)
        self._largest_weights = [max(map(abs, both)) for both in zip(self.weights, self.new.weights, strict=True)]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __repr__(self) -> str:
        shown = " + ".join(f"{weight:g} {part!r}" for part, weight in zip(self.parts, self.weights, strict=True))
        return f"SumRanker({shown})"

    @property
    def device(self) -> torch.device:
        """Where all parts are."""
        return self.parts[0].device

    def count(self, queries: Queries) -> int:
        """Q; see `ExactRanker`."""
        counts = [part.count(own) for part, own in zip(self.parts, queries, strict=True)]
        if len(set(counts)) != 1:
            raise ValueError(f"all parts need equally many queries, there are {counts}")
        return counts[0]

    def take(self, queries: Queries, start: int, stop: int) -> Queries:
        """The queries `start:stop` of all parts."""
        return tuple(part.take(own, start, stop) for part, own in zip(self.parts, queries, strict=True))

    def score(self, queries: Queries, out: Tensor) -> None:
        """See `ExactRanker`."""
        count, own = self.count(queries), torch.empty_like(out)
        out[:count] = 0
        of_new = out.new_full((count, len(self._new_rows)), self.new.offset)
        for part, weight, new_weight, of_part in zip(self.parts, self.weights, self.new.weights, queries, strict=True):
            part.score(of_part, own)
            out[:count].add_(own[:count], alpha=weight)
            if len(self._new_rows):
                of_new.add_(own[:count, self._new_rows], alpha=new_weight)
        if len(self._new_rows):
            out[:count, self._new_rows] = of_new

    def error(self, queries: Queries) -> npt.NDArray[np.float64]:
        """See `ExactRanker`: the errors of the parts, and those of adding them up in float32."""
        rounding = (len(self.parts) + 1) * 2.0**-23
        total = np.full(self.count(queries), rounding * abs(self.new.offset))
        for part, weight, own in zip(self.parts, self._largest_weights, queries, strict=True):
            total += weight * (part.error(own) + rounding * part.largest(own))
        return total

    def largest(self, queries: Queries) -> npt.NDArray[np.float64]:
        """See `ExactRanker`."""
        return sum(
            (w * part.largest(own) for part, w, own in zip(self.parts, self._largest_weights, queries, strict=True)),
            np.full(self.count(queries), abs(self.new.offset)),
        )

    def scores_of(self, queries: Queries, rows: Tensor) -> Tensor:
        """See `ExactRanker`."""
        is_new = torch.isin(rows, self._new_rows)
        total = torch.where(is_new, self.new.offset, 0.0).double()
        for part, weight, new_weight, own in zip(self.parts, self.weights, self.new.weights, queries, strict=True):
            total += torch.where(is_new, new_weight, weight).double() * part.scores_of(own, rows)
        return total

    def weights_of(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weight of each part for the items `rows`, [parts, *rows.shape], and what is added to their scores."""
        is_new = np.isin(rows, self.new.rows)
        each = [np.where(is_new, new, known) for known, new in zip(self.weights, self.new.weights, strict=True)]
        return np.stack(each), np.where(is_new, self.new.offset, 0.0)

    def subset(self, rows: npt.NDArray[np.int64]) -> "SumRanker":
        """A ranker of these items alone."""
        new = np.flatnonzero(np.isin(rows, self.new.rows))
        return SumRanker([part.subset(rows) for part in self.parts], self.weights, self._with_rows(new))

    def to(self, device: torch.device | str) -> "SumRanker":
        """The same ranker; moved only if all parts can be."""
        moved = [part.to(device) for part in self.parts]
        return self if len({part.device for part in moved}) > 1 else SumRanker(moved, self.weights, self.new)

    def with_added(self, keys: tuple[Any, ...]) -> "SumRanker":
        """See `Ranker`; `keys`: for each part, what it knows the new items by, or None (see `keys_of_new`).

        Raises:
            ValueError: no part with item vectors knows the new items.
        """
        whole = keys_of_new(self.parts, keys, self.new.rows, self.new.weights)
        longer = [part.with_added(own) for part, own in zip(self.parts, whole, strict=True)]
        return SumRanker(longer, self.weights, self._with_rows([*self.new.rows, *range(len(self), len(longer[0]))]))

    def with_removed(self, rows: IntArray) -> "SumRanker":
        """See `Ranker`."""
        return SumRanker([part.with_removed(rows) for part in self.parts], self.weights, self.new)

    def _with_rows(self, rows: Any) -> NewItems:
        return replace(self.new, rows=tuple(int(row) for row in rows))


def keys_of_new(
    parts: Sequence[ExactRanker[Any, Any]],
    keys: Sequence[Any],
    unknown: Sequence[int] | npt.NDArray[np.int64],
    weights: Sequence[float],
) -> tuple[Any, ...]:
    """What each part knows n new items by.

    A part that knows nothing of them gives each the mean of what it gives to the ten items that are nearest to it by the first
    part that does: a score of zero would put it above or below all others, whatever it is.

    Args:
        parts: of the N items that there are.
        keys: for each part, what it knows the new items by; None = nothing.
        unknown: rows of items that such parts know nothing of either.
        weights: of the parts, for new items. Without a weight any key will do: it is that of the first item.

    Raises:
        ValueError: no part with item vectors knows the new items.
    """
    if all(own is not None for own in keys):
        return tuple(keys)
    needless = all(own is not None or not weight for own, weight in zip(keys, weights, strict=True))
    if needless and any(own is not None for own in keys):
        count = next(_count(part, own) for part, own in zip(parts, keys, strict=True) if own is not None)
        first = np.zeros((count, 1), dtype=np.int64)
        return tuple(part.averaged(first) if own is None else own for part, own in zip(parts, keys, strict=True))
    dense = [
        (part, own) for part, own in zip(parts, keys, strict=True) if own is not None and isinstance(part, DenseRanker)
    ]
    if not dense:
        raise ValueError("no part with item vectors knows the new items")
    like = _nearest(*dense[0], np.asarray(unknown, dtype=np.int64))
    return tuple(part.averaged(like) if own is None else own for part, own in zip(parts, keys, strict=True))


def _count(part: ExactRanker[Any, Any], keys: Any) -> int:
    """How many items these are: rows of vectors, or columns of what other items give to them."""
    return int(len(keys) if isinstance(part, DenseRanker) else keys.shape[1])


def _nearest(ranker: DenseRanker, keys: Tensor, unknown: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows [n, k] of the items, `unknown` ones left out, whose keys have the highest cosine with each of the `keys` [n, D]."""
    left_out = np.union1d(ranker.removed, unknown)
    left_out = ranker.removed if len(left_out) == len(ranker) else left_out
    known = DenseRanker(F.normalize(ranker.keys.float(), dim=1)).with_removed(left_out)
    count = min(_COMPARABLE, len(ranker) - len(left_out))
    return known.top_k(F.normalize(torch.as_tensor(keys).float(), dim=1), count).rows
