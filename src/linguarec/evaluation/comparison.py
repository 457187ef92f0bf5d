"""Several systems on the same targets, each trained with several seeds: medians, intervals, paired tests."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from linguarec.evaluation.evaluate import EvaluationResult, Protocols
from linguarec.evaluation.intervals import Interval, PairedDifference, bootstrap_interval, holm, paired_difference
from linguarec.evaluation.published import PublishedValue
from linguarec.evaluation.report import Table
from linguarec.evaluation.summary import FIELDS
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


def by_protocol(results: Mapping[str, Sequence[Protocols]]) -> dict[str, dict[str, list[EvaluationResult]]]:
    """Protocol -> system -> the results of its seeds, for those systems of which all seeds have the protocol."""
    found: dict[str, dict[str, list[EvaluationResult]]] = {}
    for protocol in FIELDS:
        of = {
            name: [seed[protocol] for seed in seeds]
            for name, seeds in results.items()
            if all(protocol in seed for seed in seeds)
        }
        if of:
            found[protocol] = of
    return found


def protocols_table(
    systems: Mapping[str, Mapping[str, ComparedSystem]],
    published: Mapping[str, Sequence[PublishedValue]],
    minutes: Mapping[str, float],
    metrics: Sequence[str],
) -> Table:
    """A row per system, some metrics under every protocol side by side; the best of each column of ndcg in bold.

    Args:
        systems: protocol -> name -> figures.
        published: values that stand below a system, under the protocol `kept`.
        minutes: of the trainings, for those systems that were trained.
        metrics: to show.
    """
    columns = [(protocol, metric) for protocol in systems for metric in metrics]
    rows: list[list[str]] = []
    strong = set()
    best = {
        protocol: max(of, key=lambda name: of[name].median(metrics[-1]))  # used before the next turn
        for protocol, of in systems.items()
    }
    for name in systems["kept"]:
        if name in best.values():
            strong.add(len(rows))
        cells = [
            str(replace(of[name].intervals[metric], mean=of[name].median(metric))) if name in of else ""
            for of, metric in ((systems[protocol], metric) for protocol, metric in columns)
        ]
        rows.append([name, *cells, f"{minutes[name]:.1f}" if name in minutes else ""])
        if row := _published_row(published.get(name, ()), columns):
            rows.append(row)
    return Table(
        ["system", *(f"{metric} {protocol}" for protocol, metric in columns), "minutes"], rows, frozenset(strong)
    )


def _published_row(values: Sequence[PublishedValue], columns: Sequence[tuple[str, str]]) -> list[str]:
    if not values:
        return []
    of = {value.metric: value for value in values}
    label = f"  published: {values[0].system}{', pre-trained' if values[0].pretrained else ''}"
    cells = [f"{of[metric].value:.4f}" if protocol == "kept" and metric in of else "" for protocol, metric in columns]
    return [label, *cells, ""]


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
