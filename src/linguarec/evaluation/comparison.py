"""Several systems on the same targets, each trained with several seeds: medians, intervals, paired tests."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from linguarec.evaluation.evaluate import EvaluationResult
from linguarec.evaluation.intervals import Interval, PairedDifference, bootstrap_interval, holm, paired_difference
from linguarec.evaluation.published import PublishedValue
from linguarec.evaluation.report import Table
from linguarec.ranking.ranks import TargetRanks


@dataclass(frozen=True)
class ComparedSystem:
    """One row of a comparison: by metric, the value of each seed and the interval of their mean over the users."""

    seeds: dict[str, list[float]]
    intervals: dict[str, Interval]

    def median(self, metric: str) -> float:
        """Median over the seeds."""
        return float(np.median(self.seeds[metric]))

    def to_dict(self) -> dict[str, Any]:
        """By metric: the median, the seeds, the mean over them with its interval."""
        return {
            metric: {"median": self.median(metric), "seeds": values, **asdict(self.intervals[metric])}
            for metric, values in self.seeds.items()
        }


def median_of(seeds: int) -> str:
    """Caption of a column of medians over `seeds` seeds."""
    return "one seed" if seeds == 1 else f"median of {seeds} seeds"


def pooled(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """The results of several seeds on the same cases as one result, in which a user's value is the mean over the seeds."""
    return EvaluationResult(
        TargetRanks(
            np.concatenate([result.ranks.greater for result in results]),
            np.concatenate([result.ranks.ties for result in results]),
        ),
        np.concatenate([result.cases for result in results]),
        np.concatenate([result.users for result in results]),
    )


def compared(results: Sequence[EvaluationResult], ks: Sequence[int], bootstrap_seed: int = 0) -> ComparedSystem:
    """One system's row, from the results of its seeds."""
    means = [result.means(ks) for result in results]
    together = pooled(results).per_user(ks)
    return ComparedSystem(
        {metric: [found[metric] for found in means] for metric in together},
        {metric: bootstrap_interval(values, seed=bootstrap_seed) for metric, values in together.items()},
    )


def differences(
    results: Mapping[str, Sequence[EvaluationResult]], baseline: str, metrics: Sequence[str], bootstrap_seed: int = 0
) -> dict[str, dict[str, dict[str, float]]]:
    """Paired tests of each system against `baseline`: system -> metric -> difference, low, high, p_value, p_holm.

    `p_holm` is corrected for the number of systems compared with the baseline.
    """
    ks = sorted({int(metric.partition("@")[2]) for metric in metrics if "@" in metric})
    values = {name: pooled(seeds).per_user(ks) for name, seeds in results.items()}
    others = [name for name in results if name != baseline]
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in others}
    for metric in metrics:
        tests: list[PairedDifference] = [
            paired_difference(values[name][metric], values[baseline][metric], seed=bootstrap_seed) for name in others
        ]
        for name, test, corrected in zip(others, tests, holm([test.p_value for test in tests]), strict=True):
            found[name][metric] = {**asdict(test), "p_holm": corrected}
    return found


def comparison_table(
    systems: Mapping[str, ComparedSystem],
    published: Mapping[str, Sequence[PublishedValue]],
    minutes: Mapping[str, float],
) -> Table:
    """A table with one row per system, the best ndcg in bold; below a system the published values for the same data.

    Without `minutes` the table has no column for them.
    """
    metrics = list(next(iter(systems.values())).seeds)
    gains = {name: system.median(next(m for m in metrics if m.startswith("ndcg"))) for name, system in systems.items()}
    rows: list[list[str]] = []
    strong = set()
    for name, system in systems.items():
        if gains[name] == max(gains.values()):
            strong.add(len(rows))
        cells = [str(replace(system.intervals[m], mean=system.median(m))) for m in metrics]
        rows.append([name, *cells, f"{minutes[name]:.1f}" if name in minutes else ""])
        values = {value.metric: value for value in published.get(name, ())}
        if values:
            known = next(iter(values.values()))
            label = f"  published: {known.system}{', pre-trained' if known.pretrained else ''}"
            rows.append([label, *(f"{values[m].value:.4f}" if m in values else "" for m in metrics), ""])
    columns = ["system", *metrics, "minutes"]
    shown = len(columns) if minutes else len(columns) - 1
    return Table(columns[:shown], [row[:shown] for row in rows], frozenset(strong))


def differences_table(found: Mapping[str, Mapping[str, Mapping[str, float]]], baseline: str) -> Table:
    """A table with one row per system: its differences to the baseline with intervals and corrected p-values."""
    metrics = list(next(iter(found.values())))
    columns = [f"minus {baseline}"]
    for metric in metrics:
        columns += [metric, "p"]
    rows = []
    for name, tests in found.items():
        cells = [name]
        for metric in metrics:
            test = tests[metric]
            cells.append(f"{test['difference']:+.4f} ±{(test['high'] - test['low']) / 2:.4f}")
            cells.append("< 0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}")
        rows.append(cells)
    return Table(columns, rows)
