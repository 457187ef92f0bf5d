"""Slices of the evaluated cases that show where a system is good: new items, rare items, short histories."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linguarec.data.splits import EvaluationCases

IntArray = npt.NDArray[np.int64]

_LENGTH_BOUNDS = (1, 2, 3, 5, 9, 17, 33)  # each class is about twice as wide as the previous one


@dataclass(frozen=True)
class Slice:
    """The cases where `mask` [Q] is true. `group`: the criterion of the slices; `name`: of this slice."""

    group: str
    name: str
    mask: npt.NDArray[np.bool_]

    def __repr__(self) -> str:
        return f"Slice({self.group}: {self.name}, {int(self.mask.sum()):,} of {len(self.mask):,} cases)"


def training_counts(training_items: npt.NDArray[np.int32], num_items: int) -> IntArray:
    """Occurrences of each item in the training sequences, [N]; `training_items` are all of them, flat."""
    return np.bincount(np.asarray(training_items), minlength=num_items).astype(np.int64)


def slices(cases: EvaluationCases, counts: IntArray) -> list[Slice]:
    """All slices: by new or known target, by popularity of the target, by length of the history; none of them empty.

    `counts` [N]: see `training_counts`.
    """
    parts = [*by_target(cases, counts), *by_popularity(cases, counts), *by_history_length(cases)]
    return [part for part in parts if part.mask.any()]


def by_target(cases: EvaluationCases, counts: IntArray) -> list[Slice]:
    """Two slices: targets that do not occur in training, and the others."""
    cold = counts[cases.targets] == 0
    return [Slice("target", "new (not in training)", cold), Slice("target", "known", ~cold)]


def by_popularity(cases: EvaluationCases, counts: IntArray, parts: int = 4) -> list[Slice]:
    """Known targets by their occurrences in training, in `parts` classes of about equal numbers of cases.

    Targets of equal popularity stay in one class, so classes differ in size and there may be fewer of them.
    """
    popularity = counts[cases.targets]
    known = popularity[popularity > 0]
    if len(known) == 0:
        return []
    bounds = np.unique(np.quantile(known, np.arange(1, parts) / parts, method="lower"))
    lower = np.concatenate([[1], bounds + 1])
    upper = np.concatenate([bounds, [known.max()]])
    return [
        Slice("popularity of the target", _range_name(low, high), (popularity >= low) & (popularity <= high))
        for low, high in zip(lower.tolist(), upper.tolist(), strict=True)
        if low <= high
    ]


def by_history_length(cases: EvaluationCases) -> list[Slice]:
    """Histories of 1, 2, 3-4, 5-8, 9-16, 17-32 and more items."""
    lengths = cases.histories.lengths
    found = []
    for low, next_low in zip(_LENGTH_BOUNDS, (*_LENGTH_BOUNDS[1:], None), strict=True):
        name = f"{low} or more" if next_low is None else _range_name(low, next_low - 1)
        mask = (lengths >= low) & (True if next_low is None else lengths < next_low)
        found.append(Slice("history length", name, mask))
    return found


def _range_name(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
