"""The largest of many scores, in order."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.ranking.ranker import Best

# Candidates beyond k that are taken at once: rounding and small groups of equal items need no second look.
SPARE = 16
_BLOCK = 128  # scores of which the largest is looked at first


@dataclass
class BestLists:
    """Collects the best `k` items of queries under each protocol while these are ranked, for measures of whole lists.

    They are by the scores of the product: items whose scores differ by its rounding alone may change places.
    """

    k: int
    found: dict[str, list[npt.NDArray[np.int32]]] = field(default_factory=dict)

    def note(self, protocol: str, scores: Tensor) -> None:
        """Take the best of the next queries, by their scores [Q, N]; what has -inf is no candidate."""
        values, columns = highest(scores, min(self.k, scores.shape[1]))
        rows = np.full((len(scores), self.k), -1, dtype=np.int32)
        rows[:, : columns.shape[1]] = columns.masked_fill(values == -torch.inf, -1).cpu().numpy()
        self.take(protocol, rows)

    def take(self, protocol: str, rows: npt.NDArray[np.integer[Any]]) -> None:
        """Take the best of the next queries, rows [Q, k], -1 where there are fewer."""
        self.found.setdefault(protocol, []).append(rows.astype(np.int32, copy=False))

    def rows(self, protocol: str) -> npt.NDArray[np.int32]:
        """Rows [Q, k] of the best items, best first, -1 where there are fewer."""
        return np.concatenate(self.found[protocol])


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of `scores` [Q, N] and their columns, largest first, equal ones in any order.

    The largest of each block of columns is looked at first: of N scores, `torch.topk` alone takes longer than the product.
    """
    blocks = scores.shape[1] // _BLOCK
    if blocks < 4 * count or scores.device.type != "cpu":
        values, columns = scores.topk(count, dim=1)
        return values, columns
    even = blocks * _BLOCK
    largest = scores[:, :even].unflatten(1, (blocks, _BLOCK)).amax(2)
    chosen = largest.topk(count, dim=1, sorted=False).indices.unsqueeze(2) * _BLOCK
    columns = (chosen + torch.arange(_BLOCK)).flatten(1)
    rest = torch.arange(even, scores.shape[1]).expand(len(scores), -1)
    columns = torch.cat([columns, rest], dim=1)
    values, places = scores.gather(1, columns).topk(count, dim=1)
    return values, columns.gather(1, places)


def ordered(rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], k: int) -> Best:
    """The best k of distinct `rows` [Q, C] by `scores` [Q, C]; what has -inf is no candidate.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    if not (scores < np.inf).all():
        raise ValueError("scores are not finite: the model has diverged")
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return joined([Best(np.where(scores == -np.inf, -1, rows), scores)], k)


def joined(parts: list[Best], k: int, queries: int = 0) -> Best:
    """The results of several groups of queries as one, each filled up to `k`; without parts, nothing for `queries`."""
    total = sum(map(len, parts)) if parts else queries
    if len(parts) == 1 and parts[0].rows.shape[1] == k:
        return parts[0]
    rows, scores = np.full((total, k), -1, dtype=np.int64), np.full((total, k), -np.inf, dtype=np.float32)
    start = 0
    for part in parts:
        found = slice(start, start + len(part)), slice(0, part.rows.shape[1])
        rows[found], scores[found] = part.rows, part.scores
        start += len(part)
    return Best(rows, scores)
