"""The seam between scores and their use: evaluation, `Recommender`, commands and service ask a `Ranker`.

A ranker is an immutable snapshot of the items: `with_added` and `with_removed` make a new one and leave the readers of the
old one alone. Rows of items never change: a new item takes the next row, a removed one keeps its own.
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from linguarec.data.ragged import Ragged
from linguarec.ranking.ranks import TargetRanks

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
Within: TypeAlias = IntArray | Ragged
Query = TypeVar("Query", contravariant=True)
Added = TypeVar("Added", contravariant=True)


@dataclass(frozen=True)
class Best:
    """The best items of each of Q queries, best first; equal scores stand in the order of their rows.

    `rows` [Q, k] int64, -1 where fewer than k candidates are left; `scores` [Q, k] float32, -inf there.
    """

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.rows.shape != self.scores.shape or self.rows.ndim != 2:
            raise ValueError(f"rows {self.rows.shape} and scores {self.scores.shape} must both be [Q, k]")

    def __len__(self) -> int:
        return len(self.rows)


class Ranker(Protocol[Query, Added]):
    """Ranks N items for Q queries.

    `Query`: what holds Q queries. `Added`: what new items are known by.
    """

    @property
    def removed(self) -> npt.NDArray[np.int64]:
        """[R] rows of the removed items, ascending; they are never candidates."""

    def __len__(self) -> int:
        """N, the removed items included."""

    def ranks(
        self, queries: Query, targets: IntArray, exclude: Ragged | None = None, within: Within | None = None
    ) -> TargetRanks:
        """Exact ranks of the targets; they do not depend on the queries that come along.

        Args:
            queries: Q queries.
            targets: [Q] rows.
            exclude: Q lists of rows that are no candidates (a target always stays one), or None.
            within: the only candidates: distinct rows [K] for all queries, or Q lists of rows; None for all.

        Raises:
            ValueError: shapes do not fit, a target is not a candidate, or a score is not finite.
        """

    def top_k(self, queries: Query, k: int, exclude: Ragged | None = None, within: Within | None = None) -> Best:
        """The best k candidates of each query. Arguments and errors as of `ranks`."""

    def with_added(self, keys: Added) -> Self:
        """A ranker of these items and new ones behind them."""

    def with_removed(self, rows: IntArray) -> Self:
        """A ranker without these items; rows that are removed already are no error.

        Raises:
            ValueError: a row is not one of the N.
        """
