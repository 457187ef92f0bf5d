"""Baselines without a model: popularity and chance, as exact expectations over ties."""

import numpy as np
import numpy.typing as npt

from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.evaluate import EvaluationResult
from linguarec.ranking.ranks import TargetRanks

IntArray = npt.NDArray[np.int64]


def popularity(cases: EvaluationCases, counts: IntArray, exclude_history: bool = False) -> EvaluationResult:
    """Ranks items by their frequency in training, for every user alike.

    Args:
        cases: histories and targets.
        counts: [N] occurrences of each item in training (`linguarec.evaluation.slices.training_counts`).
        exclude_history: items of the history are not candidate items.
    """
    ordered = np.sort(counts)
    of_target = counts[cases.targets]
    up_to = np.searchsorted(ordered, of_target, side="right")
    greater = len(counts) - up_to
    ties = up_to - np.searchsorted(ordered, of_target, side="left")
    if exclude_history:
        case, item = _distinct_seen(cases)
        greater = greater - np.bincount(case[counts[item] > of_target[case]], minlength=len(cases))
        ties = ties - np.bincount(case[counts[item] == of_target[case]], minlength=len(cases))
    return _result(cases, greater, ties)


def chance(cases: EvaluationCases, num_items: int, exclude_history: bool = False) -> EvaluationResult:
    """Random ranking: every order of the candidates is equally likely, so all of them tie."""
    ties = np.full(len(cases), num_items)
    if exclude_history:
        ties = ties - np.bincount(_distinct_seen(cases)[0], minlength=len(cases))
    return _result(cases, np.zeros(len(cases), dtype=np.int64), ties)


def _distinct_seen(cases: EvaluationCases) -> tuple[IntArray, IntArray]:
    """(case, item) of each distinct history item that is not the target."""
    case = np.repeat(np.arange(len(cases)), cases.histories.lengths)
    item = cases.histories.values.astype(np.int64)
    seen = item != cases.targets[case]
    size = 1 + max(item.max(initial=0), cases.targets.max(initial=0))
    pairs = np.unique(case[seen] * size + item[seen])
    return pairs // size, pairs % size


def _result(cases: EvaluationCases, greater: IntArray, ties: IntArray) -> EvaluationResult:
    ranks = TargetRanks(greater.astype(np.int64), ties.astype(np.int64))
    return EvaluationResult(ranks, np.arange(len(cases)), cases.users)
