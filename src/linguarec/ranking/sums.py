"""A weighted sum of rankers of the same items, which is a ranker: a blend."""

from collections.abc import Sequence
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


class SumRanker(ExactRanker[Queries, tuple[Any, ...]]):
    """Ranks by the weighted sum of the scores of its parts, exactly: the parts' exact scores are summed in float64.

    Scores of dense parts are summed, which needs no copy of their keys, as queries and keys side by side would.

    Args:
        parts: rankers of the same N items, with the same ones removed.
        weights: one for each part.

    Raises:
        ValueError: there are no parts, they differ in their items, or a weight is not finite.
    """

    def __init__(self, parts: Sequence[ExactRanker[Any, Any]], weights: Sequence[float]) -> None:
        if not parts or len(parts) != len(weights):
            raise ValueError(f"{len(parts)} parts and {len(weights)} weights must be equally many, and at least one")
        if not np.isfinite(weights).all():
            raise ValueError(f"weights must be finite, these are {list(weights)}")
        first = parts[0]
        for part in parts[1:]:
            if len(part) != len(first) or not np.array_equal(part.removed, first.removed):
                raise ValueError(f"parts must rank the same items: {first!r} and {part!r}")
            if part.device != first.device:
                raise ValueError(f"parts must be on one device, they are on {first.device} and {part.device}")
        super().__init__(first.removed)
        self.parts = tuple(parts)
        self.weights = tuple(float(weight) for weight in weights)

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
        for part, weight, of_part in zip(self.parts, self.weights, queries, strict=True):
            part.score(of_part, own)
            out[:count].add_(own[:count], alpha=weight)

    def error(self, queries: Queries) -> npt.NDArray[np.float64]:
        """See `ExactRanker`: the errors of the parts, and those of adding them up in float32."""
        total = np.zeros(self.count(queries))
        for part, weight, own in zip(self.parts, self.weights, queries, strict=True):
            total += abs(weight) * (part.error(own) + len(self.parts) * 2.0**-23 * part.largest(own))
        return total

    def largest(self, queries: Queries) -> npt.NDArray[np.float64]:
        """See `ExactRanker`."""
        return sum(
            (abs(w) * part.largest(own) for part, w, own in zip(self.parts, self.weights, queries, strict=True)),
            np.zeros(self.count(queries)),
        )

    def scores_of(self, queries: Queries, rows: Tensor) -> Tensor:
        """See `ExactRanker`."""
        total = torch.zeros(rows.shape, dtype=torch.float64, device=rows.device)
        for part, weight, own in zip(self.parts, self.weights, queries, strict=True):
            total += weight * part.scores_of(own, rows)
        return total

    def subset(self, rows: npt.NDArray[np.int64]) -> "SumRanker":
        """A ranker of these items alone."""
        return SumRanker([part.subset(rows) for part in self.parts], self.weights)

    def to(self, device: torch.device | str) -> "SumRanker":
        """The same ranker; moved only if all parts can be."""
        moved = [part.to(device) for part in self.parts]
        return self if len({part.device for part in moved}) > 1 else SumRanker(moved, self.weights)

    def with_added(self, keys: tuple[Any, ...]) -> "SumRanker":
        """See `Ranker`; `keys`: for each part, what it knows the new items by, or None.

        A part that knows nothing of new items gives each of them the mean of what it gives to the ten items that are nearest to
        it by the first part that does: a score of zero would put it above or below all others, whatever it is.

        Raises:
            ValueError: no part with item vectors knows the new items.
        """
        knowing = [part for part, own in zip(self.parts, keys, strict=True) if own is not None]
        if len(knowing) < len(self.parts):
            dense = [
                (part, own)
                for part, own in zip(self.parts, keys, strict=True)
                if own is not None and isinstance(part, DenseRanker)
            ]
            if not dense:
                raise ValueError("no part with item vectors knows the new items")
            like = _nearest(*dense[0])
            keys = tuple(
                part.averaged(like) if own is None else own for part, own in zip(self.parts, keys, strict=True)
            )
        return SumRanker([part.with_added(own) for part, own in zip(self.parts, keys, strict=True)], self.weights)

    def with_removed(self, rows: IntArray) -> "SumRanker":
        """See `Ranker`."""
        return SumRanker([part.with_removed(rows) for part in self.parts], self.weights)


def _nearest(ranker: DenseRanker, keys: Tensor) -> npt.NDArray[np.int64]:
    """Rows [n, k] of the items whose keys have the highest cosine with each of the `keys` [n, D]."""
    known = DenseRanker(F.normalize(ranker.keys.float(), dim=1)).with_removed(ranker.removed)
    count = min(_COMPARABLE, len(ranker) - len(ranker.removed))
    return known.top_k(F.normalize(torch.as_tensor(keys).float(), dim=1), count).rows
