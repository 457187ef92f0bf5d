"""Fits how the scores of fixed models are put together: a weight for each model, and the repeat term.

    logit(i) = sum over models m of weights[m] * score_m(i | history) + r[bucket of i]        r only for items of the history
    loss     = - mean over cases of log softmax(logit)[target] + prior / 2 * |r|^2

The loss is convex in weights and r, which are a few numbers for the whole model. Weights are not negative. The ranking by
`logit` is the same for logits of any scale, so r is given back in the units of one model's scores, or of the weighted sum.

Large catalogues are sampled: the classes of a case are its target, the items of its history and uniformly drawn items, whose
share of the softmax is corrected by their number (importance sampling).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize

from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.case_scores import (
    NUMBERS_AT_ONCE,
    CaseScores,
    Part,
    StackData,
    drawn_cases,
    drawn_rows,
    heads_of,
    most_ranked,
    most_whole,
)
from linguarec.evaluation.metrics import FloatArray
from linguarec.evaluation.tuning import best_term
from linguarec.ranking.repeats import NUM_BUCKETS, RepeatTerm

_PRIOR = 1e-4  # of r; keeps r finite in a shop without a repeat
_MOST_STEPS, _CONVERGED = 50, 1e-8  # of Newton's method; the least decrease that a step must promise
_LEAST = 50.0  # an r of less is as good as none: exp(-50) of the softmax


@dataclass(frozen=True)
class Stack:
    """`weights` of the parts, at least 0; `repeats`: in the units of the weighted sum; `cases`: number fitted on."""

    weights: tuple[float, ...]
    repeats: RepeatTerm
    cases: int
    loss: float


def fit_repeats(part: Part, cases: EvaluationCases, seed: int = 0) -> RepeatTerm | None:
    """The repeat term of one model, in the units of its scores; None without cases.

    The better one by ndcg@10 of that with the highest likelihood and of others (`linguarec.evaluation.tuning`). Of very many
    cases some are drawn, by the seed.
    """
    if not len(cases):
        return None
    cases = drawn_cases(cases, most_whole([part]), seed)
    scores, every = CaseScores([part], cases, seed), np.arange(len(cases))
    data = scores.of(every, sampled=True)
    found = fit_scores(data, 1)
    likely = np.array(found.repeats.values) / (found.weights[0] or 1.0)
    if scores.sampled:
        del data  # two of these would be the most memory of the whole training
        heads = scores.heads(drawn_rows(every, most_ranked([part]), seed))
    else:
        heads = heads_of(data, (1.0,))
    return RepeatTerm(tuple(map(float, best_term(heads, likely)[0])))


def fit_scores(data: StackData, parts: int) -> Stack:
    """Minimise the loss by Newton's method, from weights that give each part's scores a spread of one.

    The numbers are few and the cases many: the second derivatives cost less than the many more steps without them.
    """
    spread = torch.clamp(data.spread(), min=1e-6).double().numpy()
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
    at_once = max(1, NUMBERS_AT_ONCE // (parts * classes))
    starts = np.searchsorted(data.seen_case.numpy(), np.arange(0, cases + at_once, at_once))
    loss, gradient = 0.0, np.zeros(len(numbers))
    curvature = np.zeros((len(numbers), len(numbers)))
    # Steps are small enough for the caches, and for their memory to be used again.
    for number, start in enumerate(range(0, cases, at_once)):
        rows, seen = slice(start, start + at_once), slice(starts[number], starts[number + 1])
        scores, target = data.scores[rows], data.target[rows].unsqueeze(1)
        case, place, bucket = data.seen_case[seen] - start, data.seen_place[seen], data.seen_bucket[seen]
        logits = torch.einsum("m,cmk->ck", weights, scores)
        logits += data.log_count
        if data.absent.shape[1] > 1:  # otherwise no case lacks a class
            logits.masked_fill_(data.absent[rows], -torch.inf)
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
