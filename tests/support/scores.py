"""Scores of parts, of as many cases as are held at once."""

from collections.abc import Sequence

import numpy as np

from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.case_scores import CaseScores, Part, StackData, drawn_cases, most_whole


def stack_data(parts: Sequence[Part], cases: EvaluationCases, seed: int) -> StackData:
    """The scores of the parts on the cases, as weights are fitted on them."""
    cases = drawn_cases(cases, most_whole(parts), seed)
    return CaseScores(parts, cases, seed).of(np.arange(len(cases)), sampled=True)
