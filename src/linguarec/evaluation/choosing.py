"""Chooses the weights of a blend, so that it is not below its best part on cases that it was not fitted on.

Ten numbers fitted on a few thousand cases look better on these cases than they are. So each way to find weights is judged by
cross-fitting: the users are divided into two halves, weights and repeat term are fitted on the one and ranked on the other,
both ways round, and the gains of all cases are compared pair by pair. The ways, from the simplest:

1. each part alone;
2. the best two parts, three, and so on: to the best part those are added that raise ndcg@10 most;
3. all parts, with the weights of highest likelihood (`linguarec.evaluation.stacking`);
4. these weights, tuned by ndcg@10.

A way with several parts must beat the best part alone by two standard errors of the paired difference; otherwise that part has
all the weight. Among those that do, the simplest is taken that is within one standard error of the best one (the
one-standard-error rule of Breiman, Friedman, Olshen and Stone, 1984). It is then fitted again on all cases.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.case_scores import (
    CaseScores,
    Part,
    StackData,
    drawn_cases,
    drawn_rows,
    heads_of,
    most_pooled,
    most_whole,
)
from linguarec.evaluation.intervals import PairedDifference, paired_difference
from linguarec.evaluation.metrics import FloatArray, ndcg, per_user
from linguarec.evaluation.stacking import fit_scores
from linguarec.evaluation.tuning import ROWS, best_term
from linguarec.progress import progress_bar
from linguarec.ranking.ranks import TargetRanks
from linguarec.ranking.repeats import NUM_BUCKETS, RepeatTerm

_FACTORS, _ROUNDS = (0.5, 0.7, 1.4, 2.0), 3  # of the search for weights
_ADDED = (0.1, 0.3, 1.0)  # of the spread of the sum so far, that of a part that is added
_GAIN = 1e-5  # of ndcg@10; less is noise
_FEWEST = 20  # users; with fewer no standard error means anything, and the best part is taken
_MARGIN = 2.0  # standard errors by which a sum must beat the best part
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Weighing:
    """`weights` of the parts, at least 0, and the term in the units of their sum. `way`: how they were found."""

    way: str
    weights: tuple[float, ...]
    repeats: FloatArray


@dataclass(frozen=True)
class Choice:
    """The chosen weights.

    `best_part`: the best part alone, by number from 0. `gain`: ndcg@10 with the repeat term over that part, cross-fitted; None
    = too few users. `spread` [parts]: of the scores of each part.
    """

    weights: tuple[float, ...]
    repeats: RepeatTerm
    cases: int
    chosen: str
    best_part: int
    gain: PairedDifference | None
    spread: tuple[float, ...]


def choose_stack(parts: Sequence[Part], cases: EvaluationCases, seed: int = 0) -> Choice:
    """The weights and the repeat term for parts of the same items.

    Args:
        parts: models on the same items.
        cases: to fit on, which no model was trained on; of very many some are drawn.
        seed: of what is drawn, and of the halves.
    """
    cases = drawn_cases(cases, most_pooled(parts, cases), seed)
    users, owner = np.unique(cases.users, return_inverse=True)
    second = (np.random.default_rng(seed).permutation(len(users)) % 2 == 1)[owner]
    scores = CaseScores(parts, cases, seed)

    def whole(rows: IntArray) -> StackData:
        return scores.of(drawn_rows(rows, most_whole(parts), seed), sampled=True)

    every = np.arange(len(cases))
    spread = tuple(whole(every).spread().tolist())
    gain: PairedDifference | None = None
    if len(users) < _FEWEST or len(parts) == 1:
        pool = scores.pooled(every)
        alone = itertools.islice(_ways(pool, partial(whole, every), spread), len(parts))
        gains = _judged(scores, every, list(alone))
        chosen = best = max(gains, key=lambda way: float(gains[way].mean()))
    else:
        halves = every[~second], every[second]
        pools = [scores.pooled(rows) for rows in halves]
        judged: list[dict[str, FloatArray]] = []
        with progress_bar("Fitting weights", 2 * _number_of_ways(len(parts)), "ways") as advance:
            for own, held_out, pool in zip(halves, halves[::-1], pools, strict=True):
                ways = []
                for found in _ways(pool, partial(whole, own), spread):
                    ways.append(found)
                    advance(1)
                judged.append(_judged(scores, held_out, ways))
        owners = cases.users[np.concatenate(halves[::-1])]
        gains = {way: per_user(np.concatenate([each[way] for each in judged]), owners)[1] for way in judged[0]}
        chosen, best = _simplest(gains, len(parts))
        gain = paired_difference(gains[chosen], gains[best])
        pool = StackData.joined(pools)
    refitted = next(found for found in _ways(pool, partial(whole, every), spread) if found.way == chosen)
    return Choice(
        refitted.weights,
        RepeatTerm(tuple(map(float, refitted.repeats))),
        len(cases),
        chosen,
        list(gains).index(best),
        gain,
        spread,
    )


def _simplest(gains: dict[str, FloatArray], parts: int) -> tuple[str, str]:
    """The way to take, and the best part alone. `gains` [U] of each way, the parts alone first, then simple before complex."""
    ways = list(gains)
    best = max(ways[:parts], key=lambda way: float(gains[way].mean()))
    better = [way for way in ways[parts:] if _standard_errors(gains[way] - gains[best]) > _MARGIN]
    if not better:
        return best, best
    highest = max(better, key=lambda way: float(gains[way].mean()))
    return next(way for way in better if _standard_errors(gains[highest] - gains[way]) <= 1), best


def _standard_errors(differences: FloatArray) -> float:
    """The mean, in standard errors."""
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    return mean / (deviation / np.sqrt(len(differences))) if deviation > 0 else 0.0


def _judged(scores: CaseScores, rows: IntArray, ways: Sequence[Weighing]) -> dict[str, FloatArray]:
    """ndcg@10 [rows] of each case by each way, among all items."""
    gains: dict[str, list[FloatArray]] = {found.way: [] for found in ways}
    with progress_bar("Judging weights", len(rows), "cases") as advance:
        for block in scores.blocks(rows):
            data = scores.of(block)
            for found in ways:
                gains[found.way].append(heads_of(data, found.weights).gains(found.repeats))
            advance(len(block))
    return {way: np.concatenate(each) for way, each in gains.items()}


def _number_of_ways(parts: int) -> int:
    return 2 * parts + 1


def _ways(pool: StackData, whole: Callable[[], StackData], spread: Sequence[float]) -> Iterator[Weighing]:
    """Weights and term found on the cases in each way, simple ones first; what is not asked for is not computed.

    `pool`: of all cases. `whole`: makes the data with all classes, of as many of the cases as memory holds.
    """
    parts = len(spread)
    alone = [
        _with_term(pool, f"part {part + 1} alone", np.eye(parts)[part], np.zeros(NUM_BUCKETS)) for part in range(parts)
    ]
    yield from (found for found, _ in alone)
    if parts == 1:
        return
    now = max(alone, key=lambda each: each[1])[0]
    for size in range(2, parts + 1):
        now = _with_one_more(pool, now, spread, f"the best {size} parts" if size < parts else "part by part")
        yield now
    likely = fit_scores(whole(), parts)
    now = _with_term(pool, "maximum likelihood", np.array(likely.weights), np.array(likely.repeats.values))[0]
    yield now
    tuned = _tuned(pool, np.array(now.weights), now.repeats, spread)
    yield _with_term(pool, "maximum likelihood, then tuned by ndcg@10", tuned, now.repeats)[0]


def _with_term(pool: StackData, way: str, weights: FloatArray, start: FloatArray) -> tuple[Weighing, float]:
    """The weights with the best term for them, and their ndcg@10."""
    numbers = tuple(map(float, weights))
    term, reached = best_term(heads_of(pool, numbers), start)
    return Weighing(way, numbers, term), reached


def _with_one_more(pool: StackData, now: Weighing, spread: Sequence[float], way: str) -> Weighing:
    """One part added to the weights, the one with which ndcg@10 is highest, if that is not lower than without."""
    weights = np.array(now.weights)
    so_far = _WeightedSum(pool, weights, now.repeats)
    best, found = so_far.ndcg(), weights
    total = float((weights * spread).sum())
    for part in np.flatnonzero(weights == 0).tolist():
        for share in _ADDED:
            value = share * total / max(spread[part], 1e-12)
            if (reached := so_far.ndcg(part, value)) > best + _GAIN:
                best, found = reached, weights.copy()
                found[part] = value
    tuned = _tuned(pool, found, now.repeats, spread, only_used=True)
    return _with_term(pool, way, tuned, now.repeats)[0]


def _tuned(
    pool: StackData, weights: FloatArray, term: FloatArray, spread: Sequence[float], only_used: bool = False
) -> FloatArray:
    """The weights after a coordinate search for the best ndcg@10 with this term.

    A weight is multiplied by a factor, or a tenth of all parts' spread is added to it, which brings in a part of weight 0; not
    with `only_used`.
    """
    so_far = _WeightedSum(pool, weights, term)
    best = so_far.ndcg()
    for _ in range(_ROUNDS):
        before = best
        for part in range(len(weights)):
            if only_used and weights[part] == 0:
                continue
            added = 0.1 * float((weights * spread).sum()) / max(spread[part], 1e-12)
            for value in (*(factor * weights[part] for factor in _FACTORS), weights[part] + added):
                change = value - weights[part]
                if (reached := so_far.ndcg(part, change)) > best + _GAIN:
                    so_far.change(part, change)
                    weights, best = weights.copy(), reached
                    weights[part] = value
        if best <= before + _GAIN:
            break
    return weights


class _WeightedSum:
    """The sum of weighted parts and a term, of which one weight at a time is changed: that costs one part, not all of them."""

    def __init__(self, pool: StackData, weights: FloatArray, term: FloatArray) -> None:
        cases, parts, classes = pool.scores.shape
        self._scores, self._target = pool.scores, pool.target.unsqueeze(1)
        self._sum = torch.zeros(cases, classes)
        for part in range(parts):
            self.change(part, float(weights[part]))
        self._sum[pool.seen_case, pool.seen_place] += torch.from_numpy(term).float()[pool.seen_bucket]
        self._sum.masked_fill_(pool.absent, -torch.inf)
        self._tried = torch.empty(ROWS, classes)

    def change(self, part: int, by: float) -> None:
        """Add so much to the weight of the part."""
        self._sum.add_(self._scores[:, part], alpha=by)

    def ndcg(self, part: int = 0, change: float = 0.0) -> float:
        """Mean ndcg@10 with so much added to the weight of the part."""
        above, ties = [], []
        for bars, scores, own in zip(
            self._target.split(ROWS), self._sum.split(ROWS), self._scores[:, part].split(ROWS), strict=True
        ):
            tried = torch.add(scores, own, alpha=change, out=self._tried[: len(scores)])
            bar = tried.gather(1, bars)
            above.append(torch.count_nonzero(tried > bar, dim=1))
            ties.append(torch.count_nonzero(tried == bar, dim=1))
        return float(ndcg(TargetRanks(torch.cat(above).numpy(), torch.cat(ties).numpy()), 10).mean())
