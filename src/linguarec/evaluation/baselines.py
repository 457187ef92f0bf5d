"""Baselines without a model: popularity and chance, as exact expectations over ties."""

from typing import Any

import numpy as np
import numpy.typing as npt

from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.case_scores import Part
from linguarec.evaluation.evaluate import EvaluationResult, Protocols
from linguarec.evaluation.stacking import fit_repeats
from linguarec.ranking.ranks import TargetRanks, counted
from linguarec.ranking.repeats import Adjustments

IntArray = npt.NDArray[np.int64]


def popularity(cases: EvaluationCases, counts: IntArray, valid: EvaluationCases | None = None) -> Protocols:
    """Ranks items by their frequency in training, for every user alike, under every protocol.

    Args:
        cases: histories and targets.
        counts: [N] occurrences of each item in training (`linguarec.evaluation.slices.training_counts`).
        valid: cases to fit its repeat term on; None = without the protocol `learned`.
    """
    of_target = counts[cases.targets]
    among_all = _among(counts, of_target)
    case, item = distinct_seen(cases)
    seen = counted(case, counts[item], of_target)
    found = {"kept": _result(cases, *among_all), "excluded": _result(cases, *(among_all - seen))}
    return found | _learned(np.log1p(counts), cases, valid)


def chance(cases: EvaluationCases, num_items: int, valid: EvaluationCases | None = None) -> Protocols:
    """Random ranking: every order of the candidates is equally likely, so all of them tie. Arguments as in `popularity`.

    Under `learned` the repeat term alone ranks.
    """
    none, ties = np.zeros(len(cases), dtype=np.int64), np.full(len(cases), num_items)
    fewer = ties - np.bincount(distinct_seen(cases)[0], minlength=len(cases))
    found = {"kept": _result(cases, none, ties), "excluded": _result(cases, none, fewer)}
    return found | _learned(np.zeros(num_items), cases, valid)


def _learned(scores: npt.NDArray[np.float64], cases: EvaluationCases, valid: EvaluationCases | None) -> Protocols:
    term = None if valid is None else fit_repeats(Part.without_history(scores), valid)
    return {} if term is None else {"learned": _adjusted(scores.astype(np.float32), cases, term(cases.histories))}


def _adjusted(scores: npt.NDArray[np.float32], cases: EvaluationCases, adjustments: Adjustments) -> EvaluationResult:
    """Ranks by scores [N] that are the same for all histories, but for those of a history's items."""
    case = np.repeat(np.arange(len(cases)), adjustments.rows.lengths)
    item = np.asarray(adjustments.rows.values, dtype=np.int64)
    before, after = scores[item], scores[item] + adjustments.values
    own = item == cases.targets[case]
    of_target = scores[cases.targets]
    of_target[case[own]] = after[own]
    changed = counted(case, after, of_target) - counted(case, before, of_target)
    return _result(cases, *(_among(scores, of_target) + changed))


def _among(scores: npt.NDArray[Any], threshold: npt.NDArray[Any]) -> IntArray:
    """[2, Q] how many of the scores [N] are greater than each threshold [Q], and how many equal it."""
    ordered = np.sort(scores)
    up_to = np.searchsorted(ordered, threshold, side="right")
    return np.stack([len(scores) - up_to, up_to - np.searchsorted(ordered, threshold, side="left")])


def distinct_seen(cases: EvaluationCases) -> tuple[IntArray, IntArray]:
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
