"""Confidence intervals of means and paired tests of two systems: seeded bootstraps over users.

Most users share their metric's value with many others (0, or one of the k gains), so a resample of the users is drawn
as the count of each *distinct* value: the same distribution, at a cost that hardly grows with the number of users.
Where distinct values are many beside the users, as with mrr, users are drawn, once for all columns of a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from linguarec.evaluation.metrics import FloatArray

Key = TypeVar("Key")
RESAMPLES = 2_000
SMALLEST_P = 1 / (RESAMPLES + 1)
_FEW = 512  # distinct values that are always drawn as counts
_COST = 10  # of drawing the count of a value, beside drawing a user
_DRAWN_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Interval:
    """Mean over `count` users, with the bounds of its 95 % bootstrap percentile interval (all NaN without users)."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """The mean and half the width of the interval."""
        return f"{self.mean:.4f} ±{(self.high - self.low) / 2:.4f}"


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference to a baseline over the same users, its 95 % interval, and the two-sided p-value of no difference.

    `p_value`: fraction of the resamples, shifted to mean 0, that differ at least as much as was observed (the bootstrap
    test of Smucker, Allan and Carterette, CIKM 2007); at least 1 / (resamples + 1).
    """

    difference: float
    low: float
    high: float
    p_value: float


def bootstrap_interval(values: FloatArray, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of `values`, one per user, with its interval."""
    return bootstrap_intervals({"": values}, resamples, seed)[""]


def bootstrap_intervals(
    columns: Mapping[Key, FloatArray], resamples: int = RESAMPLES, seed: int = 0
) -> dict[Key, Interval]:
    """Mean of each column with its interval; all are of the same users."""
    means = _resampled_means(list(columns.values()), resamples, seed)
    return {name: _interval(column, of) for (name, column), of in zip(columns.items(), means, strict=True)}


def _interval(values: FloatArray, means: FloatArray) -> Interval:
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def paired_difference(
    values: FloatArray, baseline: FloatArray, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """`values` minus `baseline`, user by user.

    Raises:
        ValueError: the two differ in their number of users, or there are no users.
    """
    if values.shape != baseline.shape or len(values) == 0:
        raise ValueError(f"{len(values)} and {len(baseline)} values: a paired test needs the same users in both")
    differences = values - baseline
    observed = float(differences.mean())
    means = _resampled_means([differences], resamples, seed)[0]
    low, high = np.quantile(means, [0.025, 0.975])
    # Rounding must not turn an observed 0 into "every resample differs less".
    extreme = np.abs(means - observed) >= abs(observed) - 1e-12
    return PairedDifference(observed, float(low), float(high), float((extreme.sum() + 1) / (resamples + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple tests (Holm 1979), in the order of the input."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    largest = 0.0
    for tested, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - tested) * p_values[index]))
        corrected[index] = largest
    return [float(p) for p in corrected]


def _resampled_means(columns: Sequence[FloatArray], resamples: int, seed: int) -> list[FloatArray]:
    """Means [resamples] of each column [users]; nothing is drawn where there are no users."""
    found: list[FloatArray] = [np.zeros(0)] * len(columns)
    many = []
    for number, values in enumerate(columns):
        if not len(values):
            continue
        distinct, counts = np.unique(values, return_counts=True)
        if len(distinct) > max(_FEW, len(values) // _COST):
            many.append(number)
            continue
        rng, at_once = np.random.default_rng(seed), max(1, _DRAWN_AT_ONCE // len(distinct))
        sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
        drawn = [rng.multinomial(len(values), counts / len(values), size=size) @ distinct for size in sizes]
        found[number] = np.concatenate(drawn) / len(values)
    if many:
        of_users = _means_of_drawn_users(np.stack([columns[number] for number in many], axis=1), resamples, seed)
        for number, means in zip(many, of_users.T, strict=True):
            found[number] = means
    return found


def _means_of_drawn_users(values: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Means [resamples, columns] of the rows that are drawn from `values` [users, columns]."""
    users, rng = len(values), np.random.default_rng(seed)
    at_once, means = max(1, _DRAWN_AT_ONCE // users), []
    for start in range(0, resamples, at_once):
        drawn = rng.integers(users, size=(min(at_once, resamples - start), users))
        times = np.stack([np.bincount(row, minlength=users) for row in drawn]).astype(np.float64)
        means.append(times @ values / users)
    return np.concatenate(means)
