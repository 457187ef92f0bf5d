"""The scores of a ranker with those of some items adjusted: a model with its repeat term."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.ranker import IntArray
from linguarec.ranking.repeats import Adjustments


class AdjustedRanker(ExactRanker[tuple[Any, Adjustments], Any]):
    """Ranks by the scores of another ranker, of which some are adjusted; queries are pairs (its queries, adjustments).

    Args:
        base: ranker of the same items.
    """

    def __init__(self, base: ExactRanker[Any, Any]) -> None:
        super().__init__(base.removed)
        self.base = base

    def __len__(self) -> int:
        return len(self.base)

    def __repr__(self) -> str:
        return f"AdjustedRanker({self.base!r})"

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.base.device

    def count(self, queries: tuple[Any, Adjustments]) -> int:
        """Q; see `ExactRanker`."""
        count = self.base.count(queries[0])
        if count != len(queries[1]):
            raise ValueError(f"{count} queries and {len(queries[1])} lists of adjustments must be equally many")
        return count

    def take(self, queries: tuple[Any, Adjustments], start: int, stop: int) -> tuple[Any, Adjustments]:
        """The queries `start:stop`."""
        return self.base.take(queries[0], start, stop), queries[1].slice(start, stop)

    def score(self, queries: tuple[Any, Adjustments], out: Tensor) -> None:
        """See `ExactRanker`."""
        self.base.score(queries[0], out)
        of_query, rows, values = self._pairs(queries[1])
        out[of_query, rows] += values.float()

    def error(self, queries: tuple[Any, Adjustments]) -> npt.NDArray[np.float64]:
        """See `ExactRanker`: the error of the base, and one rounding of the sum."""
        return self.base.error(queries[0]) + 2.0**-23 * self.largest(queries)

    def largest(self, queries: tuple[Any, Adjustments]) -> npt.NDArray[np.float64]:
        """See `ExactRanker`."""
        return self.base.largest(queries[0]) + float(np.abs(queries[1].values).max(initial=0))

    def scores_of(self, queries: tuple[Any, Adjustments], rows: Tensor) -> Tensor:
        """See `ExactRanker`."""
        scores = self.base.scores_of(queries[0], rows)
        of_query, adjusted, values = self._pairs(queries[1])
        if len(values):
            keys = of_query * len(self) + adjusted  # ascending
            wanted = torch.arange(len(rows), device=rows.device).unsqueeze(1) * len(self) + rows
            places = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            scores = scores + torch.where(keys[places] == wanted, values[places], 0.0)
        return scores

    def subset(self, rows: npt.NDArray[np.int64]) -> ExactRanker[tuple[Any, Adjustments], Any]:
        """A ranker of these items alone, for queries whose adjustments still name rows of this one."""
        return _Subset(self, rows)

    def with_added(self, keys: Any) -> "AdjustedRanker":
        """See `Ranker`."""
        return AdjustedRanker(self.base.with_added(keys))

    def with_removed(self, rows: IntArray) -> "AdjustedRanker":
        """See `Ranker`."""
        return AdjustedRanker(self.base.with_removed(rows))

    def _pairs(self, adjustments: Adjustments) -> tuple[Tensor, Tensor, Tensor]:
        """Query, row and value (float64) of each adjustment, in the order of queries and rows."""
        of_query = np.repeat(np.arange(len(adjustments)), adjustments.rows.lengths)
        rows = np.asarray(adjustments.rows.values, dtype=np.int64)
        values = adjustments.values.astype(np.float64)
        return tuple(torch.from_numpy(each).to(self.device) for each in (of_query, rows, values))  # type: ignore[return-value]


class _Subset(AdjustedRanker):
    """A `AdjustedRanker` of the items `rows` (ascending) of another one."""

    def __init__(self, whole: AdjustedRanker, rows: npt.NDArray[np.int64]) -> None:
        super().__init__(whole.base.subset(rows))
        self.rows = rows

    def _pairs(self, adjustments: Adjustments) -> tuple[Tensor, Tensor, Tensor]:
        of_query, rows, values = super()._pairs(adjustments)
        known = torch.from_numpy(self.rows).to(rows.device)
        places = torch.searchsorted(known, rows).clamp(max=max(0, len(known) - 1))
        here = known[places] == rows if len(known) else torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        return of_query[here], places[here], values[here]
