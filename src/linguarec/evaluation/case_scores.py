"""The scores that fixed models give cases, in the form that weights and repeat terms are fitted on.

For the likelihood large catalogues are sampled: the classes of a case are its target, the items of its history and uniformly
drawn items, whose share of the softmax is corrected by their number (importance sampling). Ranks are always among all items.

The scores of many models for all items and cases may need more memory than there is. So `CaseScores` keeps the queries, and
computes the scores of the cases that are asked for.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.evaluate import Protocols, ranked_by_protocol
from linguarec.evaluation.tuning import ROWS, Heads
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.queries import KeptQueries
from linguarec.ranking.ranks import full_precision
from linguarec.ranking.repeats import RepeatTerm, SeenItems
from linguarec.ranking.scorer import Scorer, evaluating

NUMBERS_AT_ONCE = 1 << 20  # scores that are worked on at once
_NUMBERS = 1 << 28  # scores held at once: 1 GiB
_NUMBERS_OF_BLOCK = 1 << 25  # of those that are computed one block of cases after the other
# With 5,000 cases instead, test recall@10 of text-kNN on Scientific moves by up to 0.0005, with 2,000 ndcg@10 by 0.0008.
_MOST_CASES, _MOST_ITEMS = 20_000, 20_000
_MOST_RANKED = 1 << 30  # scores of all items that are computed where a large catalogue is sampled for the likelihood
_REMEMBERED_AT_ONCE = 1_024  # cases
_MOST_REMEMBERED = 400_000  # queries of all parts: 600 MB if they are 384 wide
_POOL, _POOL_OF_ALL, _LEAST_POOL = 64, 512, 16  # best items of each part, of which the best ones of a sum are found
IntArray = npt.NDArray[np.int64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A model on the items of a folder: its ranker, and what makes the queries of cases, batch by batch with their indices.

    `remembered`: sets of cases whose queries are kept (`remembering`).
    """

    ranker: ExactRanker[Any, Any]
    queries: Callable[[EvaluationCases], Iterator[tuple[npt.NDArray[np.int64], Any]]]
    remembered: tuple[EvaluationCases, ...] = ()

    @classmethod
    def of(cls, scorer: Scorer, inputs: Any, ranker: ExactRanker[Any, Any]) -> "Part":
        """Of a trained model. `inputs`: as its scorer's `encode` returned them."""

        def queries(cases: EvaluationCases) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
            with evaluating(scorer.network):
                yield from scorer.queries(inputs, cases.histories, cases.users)

        return cls(ranker, queries)

    @classmethod
    def without_history(cls, scores: npt.NDArray[np.floating[Any]]) -> "Part":
        """Of scores [N] that are the same for all histories."""

        def queries(cases: EvaluationCases) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
            yield np.arange(len(cases)), torch.ones(len(cases), 1)

        return cls(DenseRanker(torch.from_numpy(scores.astype(np.float32)).unsqueeze(1)), queries)

    def remembers(self, cases: EvaluationCases) -> bool:
        """Whether the queries of these very cases are kept."""
        return any(cases is each for each in self.remembered)

    def remembering(self, *sets: EvaluationCases) -> "Part":
        """The same, which makes the queries of these sets of cases once; their blocks are in the order of the cases."""
        kept: dict[int, KeptQueries] = {}

        def queries(cases: EvaluationCases) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
            if not len(cases) or not found.remembers(cases):
                yield from self.queries(cases)
                return
            if id(cases) not in kept:
                with torch.inference_mode():
                    kept[id(cases)] = KeptQueries(self.queries(cases))
            for start in range(0, len(cases), _REMEMBERED_AT_ONCE):
                rows = np.arange(start, min(start + _REMEMBERED_AT_ONCE, len(cases)))
                yield rows, kept[id(cases)].of(rows)

        found = Part(self.ranker, queries, sets)
        return found

    def reusing(self, parts: "Sequence[Part]") -> "Part":
        """The same, of a blend of these parts, whose queries are theirs: what they remember is not made again."""

        def queries(cases: EvaluationCases) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
            if not all(part.remembers(cases) for part in parts):
                yield from self.queries(cases)
                return
            for blocks in zip(*(part.queries(cases) for part in parts), strict=True):
                yield blocks[0][0], tuple(of_part for _, of_part in blocks)

        return Part(self.ranker, queries)

    def rank(self, cases: EvaluationCases, repeats: RepeatTerm | None) -> Protocols:
        """Rank the targets of the cases under every protocol."""
        return ranked_by_protocol(self.queries(cases), self.ranker, cases, repeats)


@dataclass(frozen=True)
class StackData:
    """Scores of C cases.

    `scores` [C, M, K] float32: of each part for K classes of each case. `target` [C]: its place among them. `seen_case`,
    `seen_place`, `seen_bucket` [S]: the classes that are items of the history. `absent` [C, K]
    (or [1, 1], false): the classes that a case lacks. `log_count` [K] (or [1]): log of how many items a class stands for.
    """

    scores: Tensor
    target: Tensor
    seen_case: Tensor
    seen_place: Tensor
    seen_bucket: Tensor
    absent: Tensor
    log_count: Tensor

    @classmethod
    def joined(cls, blocks: Iterable["StackData"]) -> "StackData":
        """The cases of all blocks in turn, whose classes stand for one item each."""
        given = list(blocks)
        width = max(block.scores.shape[2] for block in given)
        *starts, total = np.cumsum([0, *(len(block.scores) for block in given)]).tolist()
        scores = torch.zeros(total, given[0].scores.shape[1], width)
        absent = torch.ones(len(scores), width, dtype=torch.bool)
        for block, start in zip(given, starts, strict=True):
            rows = slice(start, start + len(block.scores))
            scores[rows, :, : block.scores.shape[2]] = block.scores
            absent[rows, : block.scores.shape[2]] = block.absent
        return cls(
            scores,
            torch.cat([block.target for block in given]),
            torch.cat([block.seen_case + start for block, start in zip(given, starts, strict=True)]),
            torch.cat([block.seen_place for block in given]),
            torch.cat([block.seen_bucket for block in given]),
            absent,
            torch.zeros(1),
        )

    def pooled(self, most: int) -> "StackData":
        """The classes that any weighted sum may rank high: the target, and the `most` best of each part and of its history."""
        cases, parts, classes = self.scores.shape
        absent = self.absent.expand(cases, classes)
        wanted = torch.zeros(cases, classes, dtype=torch.bool)
        for part in range(parts):
            scores = self.scores[:, part].masked_fill(absent, -torch.inf)
            wanted.scatter_(1, scores.topk(min(most, classes), dim=1).indices, True)
        wanted[torch.arange(cases), self.target] = True
        seen = torch.zeros(cases, classes, dtype=torch.bool)
        seen[self.seen_case, self.seen_place] = True
        if int(torch.bincount(self.seen_case, minlength=1).max()) > most:  # one long history would widen all rows
            best = torch.zeros(cases, classes, dtype=torch.bool)
            for part in range(parts):
                scores = self.scores[:, part].masked_fill(~seen, -torch.inf)
                best.scatter_(1, scores.topk(min(most, classes), dim=1).indices, True)
            best[torch.arange(cases), self.target] = True
            seen.logical_and_(best)
        wanted.logical_or_(seen)
        kept = wanted[self.seen_case, self.seen_place]
        seen_case, seen_place = self.seen_case[kept], self.seen_place[kept]
        case, place = wanted.logical_and_(~absent).nonzero(as_tuple=True)
        starts = torch.searchsorted(case, torch.arange(cases + 1))
        column = torch.arange(len(case)) - starts[case]
        table = torch.full((cases, int(torch.diff(starts).max())), -1)
        table[case, column] = place
        keys = case * classes + place  # ascending

        def columns(of_case: Tensor, its_place: Tensor) -> Tensor:
            return column[torch.searchsorted(keys, of_case * classes + its_place)]

        taken = table.clamp(min=0)
        return StackData(
            self.scores.gather(2, taken.unsqueeze(1).expand(-1, parts, -1)),
            columns(torch.arange(cases), self.target),
            seen_case,
            columns(seen_case, seen_place),
            self.seen_bucket[kept],
            absent.gather(1, taken) | (table < 0),
            torch.zeros(1),
        )

    def spread(self) -> Tensor:
        """[M] standard deviation of the scores of each part over the classes, mean of the cases."""
        cases, parts, classes = self.scores.shape
        found = torch.empty(cases, parts)
        at_once = max(1, NUMBERS_AT_ONCE // (parts * classes))
        for start in range(0, cases, at_once):
            rows = slice(start, start + at_once)
            present = ~(self.absent[rows] if len(self.absent) > 1 else self.absent).expand(len(found[rows]), classes)
            present = present.unsqueeze(1)
            count = present.sum(dim=2)
            scores = self.scores[rows] * present
            scores -= scores.sum(dim=2, keepdim=True) / count.unsqueeze(2)
            found[rows] = ((scores * present).square().sum(dim=2) / count).sqrt()
        return found.mean(dim=0)


class CaseScores:
    """The scores that parts give cases, computed for those that are asked for.

    Args:
        parts: models on the same items.
        cases: which no model was trained on.
        seed: of the classes that are drawn from a large catalogue.
    """

    def __init__(self, parts: Sequence[Part], cases: EvaluationCases, seed: int) -> None:
        self._cases = cases
        self._items = len(parts[0].ranker)
        self._rankers = [part.ranker for part in parts]
        self._drawn = _classes(self._items, parts[0].ranker.removed, seed)
        self.sampled = len(self._drawn) < self._items
        self._of_drawn = [each.subset(self._drawn) for each in self._rankers] if self.sampled else self._rankers
        with torch.inference_mode():
            self._queries = [KeptQueries(part.queries(cases)) for part in parts]

    def of(self, rows: IntArray, sampled: bool = False) -> StackData:
        """Those of the cases `rows`, for all items or, of a large catalogue with `sampled`, for drawn ones."""
        cases = self._cases.select(rows)
        seen = SeenItems.of(cases.histories)
        sampled = sampled and self.sampled
        shared, rankers = (len(self._drawn), self._of_drawn) if sampled else (self._items, self._rankers)
        if not sampled:
            extra = Ragged(np.zeros(0, np.int64), np.zeros(len(cases) + 1, np.int64))
            target, places = cases.targets.astype(np.int64), seen.rows.values
            absent, log_count = torch.zeros(1, 1, dtype=torch.bool), torch.zeros(1)
        else:
            extra, target, places, absent, log_count = _sampled(cases, seen, self._items, self._drawn)
        width = shared + int(extra.lengths.max(initial=0))
        scores = torch.zeros(len(cases), len(self._rankers), width)
        for part, (ranker, of_shared) in enumerate(zip(self._rankers, rankers, strict=True)):
            with torch.inference_mode(), full_precision(ranker.device):
                queries = self._queries[part].of(rows)
                _write(scores[:, part], np.arange(len(cases)), queries, ranker, of_shared, extra)
        return StackData(
            scores,
            _tensor(target),
            seen_case=_tensor(np.repeat(np.arange(len(cases)), seen.rows.lengths)),
            seen_place=_tensor(places),
            seen_bucket=_tensor(seen.buckets),
            absent=absent,
            log_count=log_count,
        )

    def blocks(self, rows: IntArray) -> Iterator[IntArray]:
        """The same rows in blocks whose scores need little memory."""
        size = max(1, _NUMBERS_OF_BLOCK // (self._items * len(self._rankers)))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def pooled(self, rows: IntArray) -> StackData:
        """Those of the classes that any weighted sum may rank high."""
        most = _pool(len(self._rankers))
        return StackData.joined(self.of(block).pooled(most) for block in self.blocks(rows))

    def heads(self, rows: IntArray) -> Heads:
        """What ndcg@10 of the first part depends on."""
        weights = np.eye(len(self._rankers))[0].tolist()
        return Heads.joined([heads_of(self.of(block), weights) for block in self.blocks(rows)])


def remembering(parts: Sequence[Part], *sets: EvaluationCases) -> list[Part]:
    """The same parts, which make the queries of these sets once; those of larger sets would take too much memory."""
    kept = [each for each in sets if len(each) * len(parts) <= _MOST_REMEMBERED]
    return [part.remembering(*kept) for part in parts]


def most_whole(parts: Sequence[Part]) -> int:
    """For how many cases the scores of all classes are held at once."""
    return max(1, min(_MOST_CASES, _NUMBERS // (min(len(parts[0].ranker), _MOST_ITEMS) * len(parts))))


def most_pooled(parts: Sequence[Part], cases: EvaluationCases) -> int:
    """For how many of the cases the classes are held that any weighted sum may rank high."""
    best = _pool(len(parts)) * len(parts)
    width = best + min(best, int(cases.histories.lengths.max(initial=0))) + 1
    return max(1, min(_MOST_CASES, _NUMBERS // 2 // (len(parts) * width), most_ranked(parts)))


def most_ranked(parts: Sequence[Part]) -> int:
    """For how many cases the scores of all items are computed."""
    items = len(parts[0].ranker)
    return _MOST_CASES if items <= _MOST_ITEMS else max(1, min(_MOST_CASES, _MOST_RANKED // items))


def _pool(parts: int) -> int:
    return max(_LEAST_POOL, min(_POOL, _POOL_OF_ALL // parts))


def heads_of(data: StackData, weights: Sequence[float]) -> Heads:
    """What ndcg@10 of the weighted sum of the parts depends on."""
    cases, _, classes = data.scores.shape
    mix, scores = torch.tensor(weights, dtype=torch.float32), torch.empty(cases, classes)
    for start in range(0, cases, ROWS):  # all at once, torch copies the scores of the parts
        rows = slice(start, start + ROWS)
        torch.matmul(mix, data.scores[rows], out=scores[rows])
    scores.masked_fill_(data.absent, -torch.inf)
    return Heads.of(scores, data.target, data.seen_case, data.seen_place, data.seen_bucket)


def drawn_cases(cases: EvaluationCases, most: int, seed: int) -> EvaluationCases:
    """The same cases, or `most` drawn from them."""
    if len(cases) <= most:
        return cases
    log.info("fitted on %d cases drawn at random", most)
    return cases.select(drawn_rows(np.arange(len(cases)), most, seed))


def drawn_rows(rows: IntArray, most: int, seed: int) -> IntArray:
    """At most so many of the rows, in their order."""
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])]


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))


def _classes(items: int, removed: IntArray, seed: int) -> IntArray:
    """All items, or as many as are drawn from a large catalogue, removed ones left out."""
    if items <= _MOST_ITEMS:
        return np.arange(items)
    present = np.setdiff1d(np.arange(items), removed)
    drawn = np.random.default_rng(seed).choice(len(present), min(_MOST_ITEMS, len(present)), replace=False)
    return present[np.sort(drawn)]


def _sampled(
    cases: EvaluationCases, seen: SeenItems, items: int, drawn: IntArray
) -> tuple[Ragged, IntArray, IntArray, Tensor, Tensor]:
    """Own classes of each case (history and target) beside the drawn ones, places of target and history, `absent`, `log_count`.

    A drawn class that is also a case's own is absent: it is counted once.
    """
    classes = len(drawn)
    lengths = seen.rows.lengths + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    own = np.empty(offsets[-1], dtype=np.int64)
    is_target = np.zeros(len(own), dtype=bool)
    is_target[offsets[1:] - 1] = True
    own[is_target], own[~is_target] = cases.targets, seen.rows.values
    width = int(lengths.max(initial=1))
    log_count = torch.zeros(classes + width)
    log_count[:classes] = float(np.log(items / classes))
    place = classes + np.arange(len(own)) - np.repeat(offsets[:-1], lengths)
    case = np.repeat(np.arange(len(cases)), lengths)
    absent = torch.zeros(len(cases), classes + width, dtype=torch.bool)
    absent[:, classes:] = True
    absent[case, place] = False
    at = np.searchsorted(drawn, own)
    found = np.append(drawn, -1)[at] == own
    absent[case[found], at[found]] = True
    target, places = place[is_target].copy(), place[~is_target]
    # A target of the history is one class: that of the history.
    again = np.isin(case[~is_target] * items + seen.rows.values, np.arange(len(cases)) * items + cases.targets)
    repeated = case[~is_target][again]
    absent[repeated, target[repeated]] = True
    target[repeated] = places[again]
    return Ragged(own, offsets), target, places, absent, log_count


def scores_of_cases(part: Part, cases: EvaluationCases) -> Tensor:
    """Scores [C, N] of all items of the part."""
    nothing = Ragged(np.zeros(0, np.int64), np.zeros(len(cases) + 1, np.int64))
    found = torch.zeros(len(cases), len(part.ranker))
    with torch.inference_mode(), full_precision(part.ranker.device):
        for index, queries in part.queries(cases):
            _write(found, index, queries, part.ranker, part.ranker, nothing)
    return found


def _write(
    found: Tensor,
    index: IntArray,
    queries: Any,
    ranker: ExactRanker[Any, Any],
    of_shared: ExactRanker[Any, Any],
    own: Ragged,
) -> None:
    """Write into the rows `index` of `found` [C, K] the scores of the shared classes, and then of each case's `own`."""
    shared = len(of_shared)
    at_once = max(1, min(ROWS, NUMBERS_AT_ONCE * 16 // len(ranker)))  # `scores_of` may hold scores of all items
    for start in range(0, len(index), at_once):
        rows = index[start : start + at_once]
        taken = ranker.take(queries, start, start + len(rows))
        ranker.error(taken)  # refuses what is not finite
        out = torch.empty(len(rows), shared, device=ranker.device)
        of_shared.score(taken, out)
        found[torch.from_numpy(rows), :shared] = out.cpu()
        lists = own.select(rows)
        if len(lists.values):
            table = np.zeros((len(rows), int(lists.lengths.max())), dtype=np.int64)
            filled = np.arange(table.shape[1]) < lists.lengths[:, None]
            table[filled] = lists.values
            scored = ranker.scores_of(taken, torch.from_numpy(table).to(ranker.device)).float().cpu()
            found[torch.from_numpy(rows), shared : shared + table.shape[1]] = scored
    if of_shared is ranker and len(ranker.removed):
        found[:, torch.from_numpy(ranker.removed)] = -1e4
