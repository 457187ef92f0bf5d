"""Fits how the scores of fixed models are put together: a weight for each model, and the repeat term.

    logit(i) = sum over models m of weights[m] * score_m(i | history) + r[bucket of i]        r only for items of the history
    loss     = - mean over cases of log softmax(logit)[target] + prior / 2 * |r|^2

The loss is convex in weights and r, which are a few numbers for the whole model. Weights are not negative. The ranking by
`logit` is the same for logits of any scale, so r is given back in the units of one model's scores, or of the weighted sum.

Large catalogues are sampled: the classes of a case are its target, the items of its history and uniformly drawn items, whose
share of the softmax is corrected by their number (importance sampling).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.evaluate import Protocols, ranked_by_protocol
from linguarec.evaluation.metrics import FloatArray
from linguarec.evaluation.tuning import ROWS, Heads, best_term
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.ranks import full_precision
from linguarec.ranking.repeats import NUM_BUCKETS, RepeatTerm, SeenItems
from linguarec.ranking.scorer import Scorer, evaluating

_NUMBERS = 1 << 28  # scores held at once: 1 GiB
_NUMBERS_OF_STEP = 1 << 20  # scores that are worked on at once
# With 5,000 cases instead, test recall@10 of text-kNN on Scientific moves by up to 0.0005, with 2,000 ndcg@10 by 0.0008.
_MOST_CASES, _MOST_ITEMS = 20_000, 20_000
_POOL = 64  # best items of each part, of which the best ones of a sum are found
_PRIOR = 1e-4  # of r; keeps r finite in a shop without a repeat
_MOST_STEPS, _CONVERGED = 50, 1e-8  # of Newton's method; the least decrease that a step must promise
_LEAST = 50.0  # an r of less is as good as none: exp(-50) of the softmax
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A model on the items of a folder: its ranker, and what makes the queries of cases, batch by batch with their indices."""

    ranker: ExactRanker[Any, Any]
    queries: Callable[[EvaluationCases], Iterator[tuple[npt.NDArray[np.int64], Any]]]

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

    def rank(self, cases: EvaluationCases, repeats: RepeatTerm | None) -> Protocols:
        """Rank the targets of the cases under every protocol."""
        return ranked_by_protocol(self.queries(cases), self.ranker, cases, repeats)


@dataclass(frozen=True)
class Stack:
    """`weights` of the parts, at least 0; `repeats`: in the units of the weighted sum; `cases`: number fitted on."""

    weights: tuple[float, ...]
    repeats: RepeatTerm
    cases: int
    loss: float


@dataclass(frozen=True)
class StackData:
    """Scores of C cases.

    `scores` [C, M, K] float32: of each part for K classes of each case. `target` [C]: its place among them. `seen_case`,
    `seen_place`, `seen_bucket` [S]: the classes that are items of the history. `offset` [C, K]: log of how many items a class
    stands for.
    """

    scores: Tensor
    target: Tensor
    seen_case: Tensor
    seen_place: Tensor
    seen_bucket: Tensor
    offset: Tensor

    def slice(self, start: int, stop: int) -> "StackData":
        """The cases `start:stop`, whose scores are not copied."""
        first, last = np.searchsorted(self.seen_case.numpy(), [start, stop])
        return StackData(
            self.scores[start:stop],
            self.target[start:stop],
            self.seen_case[first:last] - start,
            self.seen_place[first:last],
            self.seen_bucket[first:last],
            self.offset[start:stop] if len(self.offset) > 1 else self.offset,
        )

    def pooled(self, most: int = _POOL) -> "StackData":
        """The classes that any weighted sum may rank high: the `most` best ones of each part, the target and the history."""
        cases, parts, classes = self.scores.shape
        absent = self.offset == -torch.inf
        wanted = torch.zeros(cases, classes, dtype=torch.bool)
        for part in range(parts):
            scores = self.scores[:, part].masked_fill(absent, -torch.inf)
            wanted.scatter_(1, scores.topk(min(most, classes), dim=1).indices, True)
        wanted[torch.arange(cases), self.target] = True
        wanted[self.seen_case, self.seen_place] = True
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
            self.seen_case,
            columns(self.seen_case, self.seen_place),
            self.seen_bucket,
            self.offset.expand(cases, classes).gather(1, taken).masked_fill(table < 0, -torch.inf),
        )


def fit_repeats(part: Part, cases: EvaluationCases, seed: int = 0) -> RepeatTerm | None:
    """The repeat term of one model, in the units of its scores; None without cases.

    The better one by ndcg@10 of that with the highest likelihood and of others (`linguarec.evaluation.tuning`). Arguments as in
    `stack_data`.
    """
    if not len(cases):
        return None
    data = stack_data([part], cases, seed)
    found = fit_scores(data, 1)
    likely = np.array(found.repeats.values) / (found.weights[0] or 1.0)
    return RepeatTerm(tuple(map(float, best_term(heads_of(data, (1.0,)), likely)[0])))


def heads_of(data: StackData, weights: Sequence[float]) -> Heads:
    """What ndcg@10 of the weighted sum of the parts depends on."""
    cases, _, classes = data.scores.shape
    mix, scores = torch.tensor(weights, dtype=torch.float32), torch.empty(cases, classes)
    for start in range(0, cases, ROWS):  # all at once, torch copies the scores of the parts
        rows = slice(start, start + ROWS)
        torch.matmul(mix, data.scores[rows], out=scores[rows])
    scores.masked_fill_(data.offset == -torch.inf, -torch.inf)
    return Heads.of(scores, data.target, data.seen_case, data.seen_place, data.seen_bucket)


def drawn_cases(parts: Sequence[Part], cases: EvaluationCases, seed: int) -> EvaluationCases:
    """As many of the cases as `stack_data` takes. Arguments as there."""
    classes = min(len(parts[0].ranker), _MOST_ITEMS)
    most = max(1, min(_MOST_CASES, _NUMBERS // (classes * len(parts))))
    if len(cases) <= most:
        return cases
    log.info("fitted on %d cases drawn at random", most)
    return cases.select(np.sort(np.random.default_rng(seed).permutation(len(cases))[:most]))


def stack_data(parts: Sequence[Part], cases: EvaluationCases, seed: int) -> StackData:
    """The scores of the parts on the cases.

    Args:
        parts: models on the same items.
        cases: to fit on, which no model was trained on; at most 20,000 are drawn.
        seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    items = len(parts[0].ranker)
    classes = min(items, _MOST_ITEMS)
    cases = drawn_cases(parts, cases, seed)
    seen = SeenItems.of(cases.histories)
    case = np.repeat(np.arange(len(cases)), seen.rows.lengths)
    if classes == items:
        shared, places = np.arange(items), seen.rows.values
        extra = Ragged(np.zeros(0, np.int64), np.zeros(len(cases) + 1, np.int64))
        target = cases.targets.astype(np.int64)
        offset = torch.zeros(1, 1)
    else:
        shared, extra, target, places, offset = _sampled(cases, seen, items, classes, rng)
    scores = scores_of_cases(parts[0], cases, shared, extra).unsqueeze(1)
    if len(parts) > 1:  # `torch.stack` would hold the scores of all parts twice
        first, scores = scores, scores.new_empty(len(cases), len(parts), scores.shape[2])
        scores[:, :1] = first
        for number, part in enumerate(parts[1:], start=1):
            scores[:, number] = scores_of_cases(part, cases, shared, extra)
    return StackData(
        scores,
        _tensor(target),
        seen_case=_tensor(case),
        seen_place=_tensor(places),
        seen_bucket=_tensor(seen.buckets),
        offset=offset,
    )


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))


def _sampled(
    cases: EvaluationCases, seen: SeenItems, items: int, classes: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], Ragged, npt.NDArray[np.int64], npt.NDArray[np.int64], Tensor]:
    """Classes drawn for all cases, own ones of each case (history and target), places of target and history, offsets.

    A drawn class that is also a case's own has an offset of -inf there: it is counted once.
    """
    drawn = np.sort(rng.choice(items, classes, replace=False))
    lengths = seen.rows.lengths + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    own = np.empty(offsets[-1], dtype=np.int64)
    is_target = np.zeros(len(own), dtype=bool)
    is_target[offsets[1:] - 1] = True
    own[is_target], own[~is_target] = cases.targets, seen.rows.values
    width = int(lengths.max(initial=1))
    offset = torch.full((len(cases), classes + width), float(np.log(items / classes)))
    place = classes + np.arange(len(own)) - np.repeat(offsets[:-1], lengths)
    case = np.repeat(np.arange(len(cases)), lengths)
    offset[:, classes:] = -torch.inf
    offset[case, place] = 0.0
    at = np.searchsorted(drawn, own)
    found = np.append(drawn, -1)[at] == own
    offset[case[found], at[found]] = -torch.inf
    target, places = place[is_target].copy(), place[~is_target]
    # A target of the history is one class: that of the history.
    again = np.isin(case[~is_target] * items + seen.rows.values, np.arange(len(cases)) * items + cases.targets)
    repeated = case[~is_target][again]
    offset[repeated, target[repeated]] = -torch.inf
    target[repeated] = places[again]
    return drawn, Ragged(own, offsets), target, places, offset


def scores_of_cases(part: Part, cases: EvaluationCases, shared: npt.NDArray[np.int64], own: Ragged) -> Tensor:
    """Scores [C, K] of the classes `shared` by all cases, then of each case's `own`; what fills a row up is 0."""
    width = len(shared) + int(own.lengths.max(initial=0))
    found = torch.zeros(len(cases), width)
    whole = len(shared) == len(part.ranker)
    ranker = part.ranker if whole else part.ranker.subset(shared)
    with torch.inference_mode(), full_precision(part.ranker.device):
        for index, queries in part.queries(cases):
            for start in range(0, len(index), 512):
                rows = index[start : start + 512]
                taken = part.ranker.take(queries, start, start + len(rows))
                out = torch.empty(len(rows), len(shared), device=ranker.device)
                ranker.score(taken, out)
                found[torch.from_numpy(rows), : len(shared)] = out.cpu()
                lists = own.select(rows)
                if len(lists.values):
                    table = np.zeros((len(rows), int(lists.lengths.max())), dtype=np.int64)
                    filled = np.arange(table.shape[1]) < lists.lengths[:, None]
                    table[filled] = lists.values
                    scored = part.ranker.scores_of(taken, torch.from_numpy(table).to(ranker.device)).float().cpu()
                    found[torch.from_numpy(rows), len(shared) : len(shared) + table.shape[1]] = scored
    removed = part.ranker.removed
    if whole and len(removed):
        found[:, torch.from_numpy(removed)] = -1e4
    return found


def fit_scores(data: StackData, parts: int) -> Stack:
    """Minimise the loss by Newton's method, from weights that give each part's scores a spread of one.

    The numbers are few and the cases many: the second derivatives cost less than the many more steps without them.
    """
    spread = torch.clamp(data.scores.std(dim=2).mean(dim=0), min=1e-6).double().numpy()
    units = np.concatenate([spread, np.ones(NUM_BUCKETS)])  # the numbers are in these, so that all are of one size
    lowest = np.concatenate([np.zeros(parts), np.full(NUM_BUCKETS, -_LEAST)])
    highest = np.concatenate([np.full(parts, np.inf), np.full(NUM_BUCKETS, _LEAST)])

    def loss_at(numbers: FloatArray) -> _Loss:
        found = _loss(data, numbers / units)
        prior = np.concatenate([np.zeros(parts), np.full(NUM_BUCKETS, _PRIOR)])
        return _Loss(
            found.value + float((prior * numbers**2).sum()) / 2,
            found.gradient / units + prior * numbers,
            found.curvature / np.outer(units, units) + np.diag(prior),
        )

    numbers = np.concatenate([np.full(parts, 1 / parts), np.zeros(NUM_BUCKETS)])
    now = loss_at(numbers)
    for _ in range(_MOST_STEPS):
        step = _newton_step(now, lowest - numbers, highest - numbers)
        slope = float(now.gradient @ step)
        if slope > -_CONVERGED:
            break
        length = 1.0
        while (there := loss_at(numbers + length * step)).value > now.value + 0.1 * length * slope and length > 0.01:
            length /= 2
        if there.value >= now.value:  # no better within rounding
            break
        numbers, now = numbers + length * step, there
    numbers = np.clip(numbers, lowest, highest) / units
    repeats = RepeatTerm(tuple(map(float, numbers[parts:])))
    return Stack(tuple(map(float, numbers[:parts])), repeats, len(data.target), now.value)


@dataclass(frozen=True)
class _Loss:
    """The loss, its gradient [n] and its second derivatives [n, n] by weights and repeat term."""

    value: float
    gradient: FloatArray
    curvature: FloatArray


def _newton_step(loss: _Loss, low: FloatArray, high: FloatArray) -> FloatArray:
    """The step within bounds to the minimum of the quadratic function with these derivatives."""
    # Two parts may be one and the same, and a model may give all items one score: directions without a curvature, which
    # rounding makes a little negative, get a small one.
    curvatures, directions = np.linalg.eigh(loss.curvature)
    roots = np.sqrt(np.maximum(curvatures, 1e-9 * max(1.0, float(curvatures[-1]))))
    solved = -(directions.T @ loss.gradient) / roots
    found = optimize.lsq_linear((directions * roots).T, solved, (low, high), method="bvls")
    return np.asarray(found.x)


def _loss(data: StackData, numbers: FloatArray) -> _Loss:
    """The mean over the cases of - log softmax(logit)[target], of weights and then repeat term `numbers`, and its derivatives.

    With features x of a class (scores of the parts, 1 in the bucket of its last occurrence): the gradient is E[x] - x[target],
    the second derivatives are E[x x'] - E[x] E[x]', expectations by the softmax.
    """
    cases, parts, classes = data.scores.shape
    weights, term = torch.from_numpy(numbers).float().split([parts, NUM_BUCKETS])
    at_once = max(1, _NUMBERS_OF_STEP // (parts * classes))
    starts = np.searchsorted(data.seen_case.numpy(), np.arange(0, cases + at_once, at_once))
    loss, gradient = 0.0, np.zeros(len(numbers))
    curvature = np.zeros((len(numbers), len(numbers)))
    # Steps are small enough for the caches, and for their memory to be used again.
    for number, start in enumerate(range(0, cases, at_once)):
        rows, seen = slice(start, start + at_once), slice(starts[number], starts[number + 1])
        scores, target = data.scores[rows], data.target[rows].unsqueeze(1)
        case, place, bucket = data.seen_case[seen] - start, data.seen_place[seen], data.seen_bucket[seen]
        logits = torch.einsum("m,cmk->ck", weights, scores)
        logits += data.offset[rows] if len(data.offset) > 1 else data.offset
        logits[case, place] += term[bucket]
        of_target = logits.gather(1, target)
        highest = logits.amax(dim=1, keepdim=True)
        share = logits.sub_(highest).exp_()
        total = share.sum(dim=1, keepdim=True)
        loss += float((total.log() + highest - of_target).double().sum())
        share /= total
        # Features that are 0 but for the history: of each bucket.
        of_seen = share[case, place]
        in_bucket = torch.zeros(len(scores), NUM_BUCKETS).index_put_((case, bucket), of_seen, accumulate=True)
        by_bucket = torch.zeros(NUM_BUCKETS, parts).index_add_(0, bucket, of_seen.unsqueeze(1) * scores[case, :, place])
        weighted = scores * share.unsqueeze(1)
        mean = torch.cat([weighted.sum(dim=2), in_bucket], dim=1).double()
        at_target = torch.zeros(NUM_BUCKETS).index_add_(0, bucket, (place == data.target[rows][case]).float())
        scores_at_target = scores.gather(2, target.unsqueeze(1).expand(-1, parts, 1)).sum(dim=0).squeeze(1)
        gradient += (mean.sum(dim=0) - torch.cat([scores_at_target, at_target])).numpy()
        squares = np.zeros_like(curvature)
        squares[:parts, :parts] = torch.matmul(weighted, scores.transpose(1, 2)).sum(dim=0).numpy()
        squares[parts:, :parts] = by_bucket.numpy()
        squares[:parts, parts:] = by_bucket.T.numpy()
        squares[parts:, parts:] = np.diag(in_bucket.sum(dim=0).numpy())
        curvature += squares - (mean.T @ mean).numpy()
    return _Loss(loss / cases, gradient / cases, curvature / cases)
