"""Ranking by cosine: a ranker whose keys all have one length, which follows a ranker through its changes."""

from dataclasses import dataclass
from typing import Self

import torch
from torch.nn import functional as F

from linguarec.ranking.dense import DenseRanker

_KEYS_AT_ONCE = 1 << 16
_SAME_LENGTH = 1e-4  # largest relative difference of lengths that count as equal


@dataclass(frozen=True)
class Cosines:
    """Ranks the items of `dense` by the cosine of query and key.

    `ranker`: a score over `length` is the product of the query with the key at length 1. It is `dense` itself if its keys have
    about one length, else it holds normalised keys. `shortest`, `longest`: lengths of the keys of `dense`.
    """

    dense: DenseRanker
    ranker: DenseRanker
    length: float
    shortest: float
    longest: float

    @classmethod
    def of(cls, dense: DenseRanker) -> Self:
        """Measures all keys, and normalises them where needed."""
        keys = dense.keys
        return cls._made(dense, None, *_lengths(keys)) if len(keys) else cls(dense, dense, 1.0, 1.0, 1.0)

    def after(self, dense: DenseRanker) -> Self | None:
        """The same of a ranker that `dense` became by adding and removing items, from the keys of the added ones alone.

        None if that is not possible: it became another way, or the added keys are the first ones of another length.
        """
        before = len(self.dense)
        if not before or not dense.extends(self.dense):
            return None
        if len(dense) == before:
            shortest, longest = self.shortest, self.longest
        else:
            added = _lengths(dense.keys_of(torch.arange(before, len(dense), device=dense.device)))
            shortest, longest = min(self.shortest, added[0]), max(self.longest, added[1])
        if self.ranker is self.dense and longest - shortest > _SAME_LENGTH * longest:
            return None
        return self._made(dense, None if self.ranker is self.dense else self.ranker, shortest, longest)

    @classmethod
    def _made(cls, dense: DenseRanker, normalised: DenseRanker | None, shortest: float, longest: float) -> Self:
        """`normalised`: of the first items of `dense`; None = of none."""
        if longest - shortest <= _SAME_LENGTH * longest:
            return cls(dense, dense, longest or 1.0, shortest, longest)
        if normalised is None:
            normalised = DenseRanker(F.normalize(dense.keys, dim=-1))
        elif len(normalised) < len(dense):
            added = torch.arange(len(normalised), len(dense), device=dense.device)
            normalised = normalised.with_added(F.normalize(dense.keys_of(added), dim=-1))
        return cls(dense, normalised.with_removed(dense.removed), 1.0, shortest, longest)


def _lengths(keys: torch.Tensor) -> tuple[float, float]:
    """The shortest and the longest length of keys [N, D], N at least 1."""
    lengths = torch.cat([part.norm(dim=-1) for part in keys.split(_KEYS_AT_ONCE)])
    return float(lengths.min()), float(lengths.max())
