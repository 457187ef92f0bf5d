"""Metrics of cases with one target, from its rank; with ties the mean over the tied ranks, which are equally likely.

    recall@k = 1 if rank <= k           ndcg@k = 1 / log2(rank + 1) if rank <= k           mrr = 1 / rank

A metric is a value for every case; means, intervals and tests come after.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from linguarec.ranking.ranks import TargetRanks

FloatArray = npt.NDArray[np.float64]


def recall(ranks: TargetRanks, k: int) -> FloatArray:
    """Probability that the target is among the first `k`, [Q]."""
    return np.clip(k - ranks.greater, 0, ranks.ties) / ranks.ties


def ndcg(ranks: TargetRanks, k: int) -> FloatArray:
    """Discounted gain of the target within the first `k` (the ideal gain is 1), [Q]."""
    return _mean_gain(ranks, 1 / np.log2(np.arange(2, k + 2)))


def mrr(ranks: TargetRanks) -> FloatArray:
    """Reciprocal rank of the target in the whole list, [Q]."""
    longest = int((ranks.greater + ranks.ties).max(initial=1))
    return _mean_gain(ranks, 1 / np.arange(1, longest + 1))


def per_case(ranks: TargetRanks, ks: Sequence[int]) -> dict[str, FloatArray]:
    """All metrics by name: `recall@k` and `ndcg@k` for each k, then `mrr`; [Q] each."""
    metrics = {}
    for k in ks:
        metrics[f"recall@{k}"] = recall(ranks, k)
        metrics[f"ndcg@{k}"] = ndcg(ranks, k)
    metrics["mrr"] = mrr(ranks)
    return metrics


def per_user(values: FloatArray, users: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Mean over the cases of each user: the distinct users, ascending, and their values.

    In leave-one-out a user has one case; in other splits a user with many targets has the same weight as any other user.
    """
    distinct, owner, counts = np.unique(users, return_inverse=True, return_counts=True)
    return distinct, np.bincount(owner, weights=values, minlength=len(distinct)) / counts


def _mean_gain(ranks: TargetRanks, gains: FloatArray) -> FloatArray:
    """Mean of `gains[rank - 1]` over the tied ranks; gains beyond the end of the array are 0."""
    total = np.concatenate([[0.0], np.cumsum(gains)])
    last = len(gains)
    gained = total[np.minimum(ranks.greater + ranks.ties, last)] - total[np.minimum(ranks.greater, last)]
    result: FloatArray = gained / ranks.ties
    return result
