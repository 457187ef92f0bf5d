"""Exact ranks and exact best items, for every kind of score: what `DenseRanker`, `SparseRanker`, `SumRanker` share.

Ranks. The score of a target is read from the same product as all others: a dot product of its own differs in the last
bits and would break the ties between items with equal vectors. Queries are worked through in chunks of one size, that
depends on the catalogue alone; the last one is filled up. So the ranks of a query do not depend on the queries it came with.

Best items. A matrix product of one query and one of many differ in the last bits, and a matrix-vector product gives
different bits to equal rows. So the product only finds the candidates: all items whose score, by the bound of its rounding
error, may be among the best k. Their scores are then computed in float64 and rounded to float32. Those do not depend on the
other queries, the number of threads, or where an item stands, and items with equal vectors tie.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.data.ragged import Ragged
from linguarec.ranking.ordering import SPARE, BestLists, highest, joined, ordered
from linguarec.ranking.ranker import Best, IntArray, Within
from linguarec.ranking.ranks import TargetRanks, chunk_rows, full_precision
from linguarec.ranking.repeats import Adjustments

Query = TypeVar("Query")
Added = TypeVar("Added")
Scores = npt.NDArray[np.floating[Any]]

_SCORES_AT_ONCE = 1 << 22  # of `top_k`: 16 MB, about what the caches of a CPU hold; but 32 queries at least
_MANY_ITEMS = 50_000
_FEW = 8  # for the best k, a list of candidates shorter than an eighth of the catalogue is scored by itself


class ExactRanker(ABC, Generic[Query, Added]):
    """A `Ranker` by scores of all items, a chunk of queries at a time.

    A kind of score says how many queries there are (`count`, `take`), what they score (`score`) to a rounding `error`, and
    what they score exactly (`scores_of`); the rest is here.
    """

    def __init__(self, removed: npt.NDArray[np.int64]) -> None:
        self.removed = removed
        self._removed = torch.from_numpy(removed)

    @abstractmethod
    def __len__(self) -> int:
        """N, the removed items included."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the scores are computed."""

    @abstractmethod
    def count(self, queries: Query) -> int:
        """Q.

        Raises:
            ValueError: these are no queries for these items.
        """

    @abstractmethod
    def take(self, queries: Query, start: int, stop: int) -> Query:
        """The queries `start:stop`."""

    @abstractmethod
    def score(self, queries: Query, out: Tensor) -> None:
        """Write the scores of all items into the first Q rows of `out` [R, N] float32, R >= Q.

        The result depends on R, but not on Q.
        """

    @abstractmethod
    def error(self, queries: Query) -> npt.NDArray[np.float64]:
        """[Q] bound of the difference between `score` and `scores_of`; 0 where they are the same.

        Raises:
            ValueError: a query, or what the items are known by, is not finite.
        """

    @abstractmethod
    def largest(self, queries: Query) -> npt.NDArray[np.float64]:
        """[Q] bound of the absolute value of a score; NaN or infinite where a query or item is not finite."""

    @abstractmethod
    def scores_of(self, queries: Query, rows: Tensor) -> Tensor:
        """Scores [Q, C] float64 of the items `rows` [Q, C], to the rounding of float64."""

    @abstractmethod
    def subset(self, rows: npt.NDArray[np.int64]) -> "ExactRanker[Query, Added]":
        """A ranker of these items alone."""

    def averaged(self, rows: npt.NDArray[np.int64]) -> Any:
        """What n items are known by that are scored as the mean of k others each, `rows` [n, k]; see `with_added`."""
        raise NotImplementedError(f"{type(self).__name__} cannot average items")

    def to(self, device: torch.device | str) -> "ExactRanker[Query, Added]":
        """The same ranker, moved to a device if it can work there."""
        return self

    @abstractmethod
    def with_added(self, keys: Added) -> Self:
        """See `Ranker`."""

    @abstractmethod
    def with_removed(self, rows: IntArray) -> Self:
        """See `Ranker`."""

    # -- ranks ---------------------------------------------------------------------------------------------------------

    def ranks(
        self, queries: Query, targets: IntArray, exclude: Ragged | None = None, within: Within | None = None
    ) -> TargetRanks:
        """See `Ranker`."""
        total = self.count(queries)
        check_lists(total, exclude, within)
        if isinstance(within, np.ndarray) and len(within) * 2 < len(self):
            rows = self._candidates(within)
            columns = np.searchsorted(rows, targets)
            found = rows[np.minimum(columns, len(rows) - 1)] == targets if len(rows) else np.zeros(total, dtype=bool)
            _check_targets(~found)
            return self.subset(rows).ranks(queries, columns, None if exclude is None else _columns(exclude, rows))
        protocol = "kept" if exclude is None else "excluded"
        return self._ranks(queries, targets, (protocol,), within, exclude)[protocol]

    def ranks_by_protocol(
        self,
        queries: Query,
        targets: IntArray,
        histories: Ragged,
        adjustments: Adjustments | None = None,
        lists: BestLists | None = None,
    ) -> dict[str, TargetRanks]:
        """Ranks among all items under each protocol, of one product: `kept`, `excluded` and, with adjustments, `learned`.

        Args:
            queries: Q queries.
            targets: [Q] rows.
            histories: Q lists of rows, which are candidates (`kept`) or not (`excluded`; the target always is one).
            adjustments: of the repeat term, for these histories.
            lists: collects the best items under each protocol, too, by the same product.

        Raises:
            ValueError: as in `ranks`.
        """
        return self._ranks(queries, targets, protocols_of(adjustments), None, histories, adjustments, lists)

    def _ranks(
        self,
        queries: Query,
        targets: IntArray,
        protocols: Sequence[str],
        within: Within | None,
        histories: Ragged | None,
        adjustments: Adjustments | None = None,
        lists: BestLists | None = None,
    ) -> dict[str, TargetRanks]:
        """Ranks among the candidates under some protocols, of which only `kept` needs no histories."""
        total = self.count(queries)
        if len(targets) != total:
            raise ValueError(f"{total} queries and {len(targets)} targets must be equally many")
        of_target = self._targets(targets)
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in protocols}
        note = (lambda protocol, scores: None) if lists is None else lists.note
        with full_precision(self.device):
            self.error(queries)  # refuses what is not finite
            closed = self._closed(within)
            out = torch.empty(chunk_rows(len(self), self.device), len(self), device=self.device)
            for start in range(0, total, len(out)):
                stop = min(start + len(out), total)
                self.score(self.take(queries, start, stop), out)
                scores, target = out[: stop - start], of_target[start:stop].unsqueeze(1)
                self._close(scores, start, closed, within)
                target_scores = scores.gather(1, target)
                _check_targets(target_scores.squeeze(1).cpu().numpy() == -np.inf)
                if "kept" in found:
                    note("kept", scores)
                    found["kept"].append(_compared(scores, target_scores))
                if histories is None:
                    continue
                pairs = _pairs(histories, start, len(scores), scores.device)
                seen = scores[pairs]
                scores[pairs] = -torch.inf
                note("excluded", scores)
                scores.scatter_(1, target, target_scores)
                found["excluded"].append(_compared(scores, target_scores))
                if adjustments is not None:
                    scores[pairs] = seen
                    add_adjustments(scores, adjustments.slice(start, stop))
                    note("learned", scores)
                    found["learned"].append(_compared(scores, scores.gather(1, target)))
        return {name: _joined_ranks(parts) for name, parts in found.items()}

    # -- the best k ----------------------------------------------------------------------------------------------------

    def top_k(self, queries: Query, k: int, exclude: Ragged | None = None, within: Within | None = None) -> Best:
        """See `Ranker`."""
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        total = self.count(queries)
        check_lists(total, exclude, within)
        if isinstance(within, np.ndarray) and len(within) * _FEW < len(self):
            rows = self._candidates(within)
            best = self.subset(rows).top_k(queries, k, None if exclude is None else _columns(exclude, rows))
            return Best(np.append(rows, -1)[best.rows], best.scores)
        parts = []
        with full_precision(self.device):
            error = self.error(queries)
            if isinstance(within, Ragged) and within.lengths.max(initial=0) * _FEW < len(self):
                return self._best_listed(queries, k, exclude, within)
            closed = self._closed(within)
            rows_at_once = max(32, min(512, _SCORES_AT_ONCE // max(1, len(self))))
            for start in range(0, total, rows_at_once):
                stop = min(start + rows_at_once, total)
                part = queries if stop - start == total else self.take(queries, start, stop)
                scores = self._scores(part, stop - start)
                self._close(scores, start, closed, within)
                if exclude is not None:
                    scores[_pairs(exclude, start, len(scores), scores.device)] = -torch.inf
                parts.append(self._best(part, scores, k, error[start:stop]))
        return joined(parts, k)

    def _scores(self, queries: Query, count: int) -> Tensor:
        """Scores [Q, N] of Q = `count` queries.

        On a CPU a product of few queries and many keys takes half the time where its columns lie side by side, and that of
        one query filled up to two is faster than a matrix-vector product, from about 50,000 keys on.
        """
        if self.device.type != "cpu" or (count == 1 and len(self) < _MANY_ITEMS):
            out = torch.empty(count, len(self), device=self.device)
        else:
            out = torch.empty(len(self), max(2, count)).T
        self.score(queries, out)
        return out[:count].contiguous()

    def _best(self, queries: Query, scores: Tensor, k: int, error: npt.NDArray[np.float64]) -> Best:
        """The best k by `scores` [Q, N], in which what is no candidate has -inf."""
        count = min(scores.shape[1], k + SPARE)
        if count == 0:
            return joined([], k, len(scores))
        values, rows = highest(scores, count)
        exact = self.scores_of(queries, rows).float()
        exact = torch.where(values == -torch.inf, -torch.inf, exact)
        best = ordered(rows.cpu().numpy(), exact.cpu().numpy(), k)
        if count == scores.shape[1]:
            return best
        # An item whose exact score is among the best k is at most twice the error below the k-th score found.
        found = values.cpu().numpy()
        least = found[:, k - 1] - 2 * error
        for number in np.flatnonzero((found[:, -1] >= least) & (found[:, -1] > -np.inf)).tolist():
            again = self._best_above(
                self.take(queries, number, number + 1), scores[number], k, float(found[number, k - 1]), error[number]
            )
            best.rows[number], best.scores[number] = again.rows[0], again.scores[0]
        return best

    def _best_above(self, query: Query, scores: Tensor, k: int, last: float, error: float) -> Best:
        """The best k of one query, where more items than `SPARE` may be as good as the k-th, whose score is `last`."""
        if error == 0:  # the scores are exact: of the equal ones, the first rows
            equal = (scores == last).nonzero().squeeze(1)[:k]
            rows = torch.cat([(scores > last).nonzero().squeeze(1), equal])
            return ordered(rows[None].cpu().numpy(), scores[rows][None].cpu().numpy(), k)
        rows = (scores >= last - 2 * error).nonzero().squeeze(1)
        exact = self.scores_of(query, rows[None]).float()
        return ordered(rows[None].cpu().numpy(), exact.cpu().numpy(), k)

    def _best_listed(self, queries: Query, k: int, exclude: Ragged | None, within: Ragged) -> Best:
        """The best k of each query's own list of candidates, of which nothing but the lists is scored."""
        longest = max(1, int(within.lengths.max(initial=0)))
        parts = []
        queries_at_once = max(1, (_SCORES_AT_ONCE >> 6) // longest)
        for start in range(0, len(within), queries_at_once):
            lists = within.select(np.arange(start, min(start + queries_at_once, len(within))))
            of_query = np.repeat(np.arange(len(lists)), lists.lengths)
            pairs = np.unique(of_query * len(self) + self.checked(lists.values))
            if len(self.removed):
                pairs = pairs[~np.isin(pairs % len(self), self.removed)]
            if exclude is not None:
                out = exclude.select(np.arange(start, start + len(lists)))
                barred = np.repeat(np.arange(len(lists)), out.lengths) * len(self) + out.values.astype(np.int64)
                pairs = pairs[~np.isin(pairs, barred)]
            of_query, rows = pairs // len(self), pairs % len(self)
            places = np.arange(len(pairs)) - np.searchsorted(of_query, of_query)
            table = np.zeros((len(lists), longest), dtype=np.int64)
            listed = np.zeros(table.shape, dtype=bool)
            table[of_query, places], listed[of_query, places] = rows, True
            part = self.take(queries, start, start + len(lists))
            exact = self.scores_of(part, torch.from_numpy(table).to(self.device)).float().cpu().numpy()
            parts.append(ordered(table, np.where(listed, exact, np.float32(-np.inf)), k))
        return joined(parts, k)

    # -- candidates ----------------------------------------------------------------------------------------------------

    def checked(self, rows: IntArray) -> npt.NDArray[np.int64]:
        """The rows as int64.

        Raises:
            ValueError: one is not one of the N.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise ValueError(f"rows run from {rows.min()} to {rows.max()}, there are {len(self)} items")
        return np.asarray(rows, dtype=np.int64)

    def _targets(self, targets: IntArray) -> Tensor:
        """[Q] the targets, on the device.

        Raises:
            ValueError: one is not one of the N, or is removed.
        """
        of_target = torch.from_numpy(np.asarray(targets, dtype=np.int64)).to(self.device)
        if len(targets) and not 0 <= int(of_target.min()) <= int(of_target.max()) < len(self):
            raise ValueError(f"targets must be rows of the {len(self)} items")
        _check_targets(np.isin(targets, self.removed))
        return of_target

    def _candidates(self, within: IntArray) -> npt.NDArray[np.int64]:
        """Those of `within` that are not removed, ascending."""
        rows = np.unique(self.checked(within))
        return rows[~np.isin(rows, self.removed)] if len(self.removed) else rows

    def _closed(self, within: Within | None) -> Tensor | None:
        """[N] true for the items outside of one list of candidates, or None if there is no such list."""
        if not isinstance(within, np.ndarray):
            return None
        closed = torch.ones(len(self), dtype=torch.bool)
        closed[torch.from_numpy(self.checked(within))] = False
        return closed.to(self.device)

    def _close(self, scores: Tensor, start: int, closed: Tensor | None, within: Within | None) -> None:
        """Put the items that are no candidates below all others, in `scores` of the queries from `start` on."""
        if len(self.removed):
            scores.index_fill_(1, self._removed.to(scores.device), -torch.inf)
        if closed is not None:
            scores.masked_fill_(closed, -torch.inf)
        if isinstance(within, Ragged):
            outside = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
            queries, rows = _pairs(within, start, len(scores), scores.device)
            self.checked(within.values)
            outside[queries, rows] = False
            scores.masked_fill_(outside, -torch.inf)


def protocols_of(adjustments: object) -> tuple[str, ...]:
    """Names of the protocols, in the order in which they are shown; `learned` needs a repeat term."""
    return ("kept", "excluded") if adjustments is None else ("kept", "excluded", "learned")


def add_adjustments(scores: Tensor, adjustments: Adjustments) -> None:
    """Add adjustments to the scores [Q, N] in place; an item of -inf stays there."""
    queries, rows = _pairs(adjustments.rows, 0, len(scores), scores.device)
    scores[queries, rows] += torch.from_numpy(adjustments.values).to(scores.device)


def removed_rows(removed: npt.NDArray[np.int64], rows: IntArray, count: int) -> npt.NDArray[np.int64]:
    """`removed` (ascending, distinct) and `rows` in one array of that kind.

    Raises:
        ValueError: a row is not one of the `count`.
    """
    fresh = np.unique(np.asarray(rows, dtype=np.int64))
    if len(fresh) and not 0 <= fresh[0] <= fresh[-1] < count:
        raise ValueError(f"rows to remove run from {fresh[0]} to {fresh[-1]}, there are {count} items")
    places = np.searchsorted(removed, fresh)
    known = np.append(removed, -1)[places] == fresh
    return np.insert(removed, places[~known], fresh[~known])


def _compared(scores: Tensor, target_scores: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores [Q, N] are greater than the target's [Q, 1], and how many equal it."""
    greater = torch.count_nonzero(scores > target_scores, dim=1)
    return greater, torch.count_nonzero(scores >= target_scores, dim=1) - greater


def _joined_ranks(parts: list[tuple[Tensor, Tensor]]) -> TargetRanks:
    none = torch.zeros(0, dtype=torch.int64)
    greater = torch.cat([none, *(greater.cpu() for greater, _ in parts)])
    return TargetRanks(greater.numpy(), torch.cat([none, *(ties.cpu() for _, ties in parts)]).numpy())


def check_lists(queries: int, exclude: Ragged | None, within: Within | None) -> None:
    """Raise a ValueError unless there is a list for each query."""
    for what, lists in (("to exclude", exclude), ("of candidates", within)):
        if isinstance(lists, Ragged) and len(lists) != queries:
            raise ValueError(f"{queries} queries and {len(lists)} lists {what} must be equally many")


def _check_targets(lacking: npt.NDArray[np.bool_]) -> None:
    if lacking.any():
        raise ValueError(f"{int(lacking.sum())} targets are not among the candidates: outside of `within`, or removed")


def _columns(lists: Ragged, rows: npt.NDArray[np.int64]) -> Ragged:
    """The places of the listed items in `rows` (ascending), without those that are not there."""
    places = np.searchsorted(rows, lists.values)
    known = np.append(rows, -1)[places] == lists.values
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])[lists.offsets]
    return Ragged(places[known], offsets)


def _pairs(lists: Ragged, start: int, queries: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Query (from 0) and row of each item listed for `queries` queries from `start` on."""
    offsets = lists.offsets[start : start + queries + 1]
    rows = lists.values[offsets[0] : offsets[-1]].astype(np.int64)
    of_query = np.repeat(np.arange(queries), np.diff(offsets))
    return torch.from_numpy(of_query).to(device), torch.from_numpy(rows).to(device)
