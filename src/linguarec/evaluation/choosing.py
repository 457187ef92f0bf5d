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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.intervals import PairedDifference, paired_difference
from linguarec.evaluation.metrics import FloatArray, per_user
from linguarec.evaluation.stacking import Part, StackData, drawn_cases, fit_scores, heads_of, stack_data
from linguarec.evaluation.tuning import best_term
from linguarec.progress import progress_bar
from linguarec.ranking.repeats import NUM_BUCKETS, RepeatTerm

_FACTORS, _ROUNDS = (0.5, 0.7, 1.4, 2.0), 3  # of the search for weights
_ADDED = (0.1, 0.3, 1.0)  # of the spread of the sum so far, that of a part that is added
_GAIN = 1e-5  # of ndcg@10; less is noise
_FEWEST = 20  # users; with fewer no standard error means anything, and the best part is taken
_MARGIN = 2.0  # standard errors by which a sum must beat the best part


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
    cases = drawn_cases(parts, cases, seed)
    users, owner = np.unique(cases.users, return_inverse=True)
    second = np.random.default_rng(seed).permutation(len(users)) % 2 == 1
    order = np.argsort(second[owner], kind="stable")  # each half is a slice, whose scores need no copy
    cases, half = cases.select(order), int((~second[owner]).sum())
    data = stack_data(parts, cases, seed)
    spread = tuple(data.scores.std(dim=2).mean(dim=0).tolist())
    gain: PairedDifference | None = None
    with progress_bar("Fitting weights", 2 * _number_of_ways(len(parts)), "ways") as advance:
        if len(users) < _FEWEST or len(parts) == 1:
            alone = itertools.islice(_ways(data, spread), len(parts))
            gains = {found.way: _gains(data, found) for found in alone}
            chosen = best = max(gains, key=lambda way: float(gains[way].mean()))
        else:
            judged: dict[str, list[FloatArray]] = {}
            halves = data.slice(0, half), data.slice(half, len(cases))
            for fitted, held_out in (halves, halves[::-1]):
                for found in _ways(fitted, spread):
                    judged.setdefault(found.way, []).append(_gains(held_out, found))
                    advance(1)
            swapped = np.concatenate([cases.users[half:], cases.users[:half]])
            gains = {way: per_user(np.concatenate(of_way), swapped)[1] for way, of_way in judged.items()}
            chosen, best = _simplest(gains, len(parts))
            gain = paired_difference(gains[chosen], gains[best])
        refitted = next(found for found in _ways(data, spread) if found.way == chosen)
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


def _gains(data: StackData, found: Weighing) -> FloatArray:
    return heads_of(data, found.weights).gains(found.repeats)


def _number_of_ways(parts: int) -> int:
    return 2 * parts + 1


def _ways(data: StackData, spread: Sequence[float]) -> Iterator[Weighing]:
    """Weights and term found on the cases in each way, simple ones first; what is not asked for is not computed."""
    parts, pool = len(spread), data.pooled()
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
    likely = fit_scores(data, parts)
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
    best, found = heads_of(pool, now.weights).ndcg(now.repeats), weights
    total = float((weights * spread).sum())
    for part in np.flatnonzero(weights == 0).tolist():
        for share in _ADDED:
            changed = weights.copy()
            changed[part] = share * total / max(spread[part], 1e-12)
            if (ndcg := heads_of(pool, changed.tolist()).ndcg(now.repeats)) > best + _GAIN:
                best, found = ndcg, changed
    tuned = _tuned(pool, found, now.repeats, spread, only_used=True)
    return _with_term(pool, way, tuned, now.repeats)[0]


def _tuned(
    pool: StackData, weights: FloatArray, term: FloatArray, spread: Sequence[float], only_used: bool = False
) -> FloatArray:
    """The weights after a coordinate search for the best ndcg@10 with this term.

    A weight is multiplied by a factor, or a tenth of all parts' spread is added to it, which brings in a part of weight 0; not
    with `only_used`.
    """
    best = heads_of(pool, weights.tolist()).ndcg(term)
    for _ in range(_ROUNDS):
        before = best
        for part in range(len(weights)):
            if only_used and weights[part] == 0:
                continue
            added = 0.1 * float((weights * spread).sum()) / max(spread[part], 1e-12)
            for value in (*(factor * weights[part] for factor in _FACTORS), weights[part] + added):
                changed = weights.copy()
                changed[part] = value
                if (ndcg := heads_of(pool, changed.tolist()).ndcg(term)) > best + _GAIN:
                    weights, best = changed, ndcg
        if best <= before + _GAIN:
            break
    return weights
