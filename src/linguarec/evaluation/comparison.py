"""Several systems on the same targets, each trained with several seeds: medians, intervals, paired tests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from linguarec.durations import duration_text
from linguarec.evaluation.evaluate import EvaluationResult, Protocols
from linguarec.evaluation.intervals import (
    SMALLEST_P,
    Interval,
    PairedDifference,
    bootstrap_interval,
    holm,
    paired_difference,
)
from linguarec.evaluation.published import PublishedValue
from linguarec.evaluation.report import Table
from linguarec.evaluation.slices import Slice
from linguarec.evaluation.summary import FIELDS, summarise
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


def against_best(
    results: Sequence[Protocols], parts: Mapping[str, Sequence[Protocols]], metrics: Sequence[str], by: str = "ndcg@10"
) -> dict[str, dict[str, Any]]:
    """Paired differences of a system to the best of some others on the same cases, which is hard on the system.

    Args:
        results: of each seed of the system.
        parts: name -> the results of each seed.
        metrics: to test.
        by: metric that says which part is the best.

    Returns:
        Protocol -> `part`, the best one's name, and metric -> difference, low, high, p_value. A protocol that not all have is
        left out.
    """
    ks = sorted({int(metric.partition("@")[2]) for metric in (*metrics, by) if "@" in metric})
    found: dict[str, dict[str, Any]] = {}
    for protocol in FIELDS:
        if not all(protocol in seed for seeds in (results, *parts.values()) for seed in seeds):
            continue
        own = pooled([seed[protocol] for seed in results]).per_user(ks)
        of_parts = {name: pooled([seed[protocol] for seed in seeds]).per_user(ks) for name, seeds in parts.items()}
        best = max(of_parts, key=lambda name: float(of_parts[name][by].mean()))  # used before the next turn
        tests = {metric: asdict(paired_difference(own[metric], of_parts[best][metric])) for metric in metrics}
        found[protocol] = {"part": best, **tests}
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


@dataclass(frozen=True)
class Costs:
    """What trainings took, by system: `minutes`, and the largest resident `memory` in GiB, where they are known."""

    minutes: Mapping[str, float]
    memory: Mapping[str, float]

    def cells(self, name: str) -> list[str]:
        """Of one system; empty where not known."""
        return [
            duration_text(60 * self.minutes[name]) if name in self.minutes else "",
            f"{self.memory[name]:.2f}" if name in self.memory else "",
        ]


@dataclass(frozen=True)
class Comparison:
    """Several systems on the cases of one split.

    `systems`: protocol -> name -> figures. `baseline`: what they are tested against. `differences`: protocol -> name -> metric
    -> paired test. `slices`: the systems by parts of the targets. `best_parts`: sum of other systems -> protocol -> its best
    part and the paired differences to it (`against_best`).
    """

    systems: dict[str, dict[str, ComparedSystem]]
    baseline: str
    differences: dict[str, dict[str, dict[str, dict[str, float]]]]
    slices: list[dict[str, Any]]
    users: int
    best_parts: dict[str, dict[str, dict[str, Any]]]

    @classmethod
    def of(
        cls,
        results: Mapping[str, Sequence[Protocols]],
        baseline: str,
        parts: Sequence[Slice],
        ks: Sequence[int],
        tested: Sequence[str],
        sums: Mapping[str, Sequence[str]] | None = None,
    ) -> "Comparison":
        """Compare the results of systems on the same cases.

        Args:
            results: name -> the result of each seed.
            baseline: name of one of them.
            parts: of the cases.
            ks: list lengths of the metrics.
            tested: metrics of the paired tests; no test is made of chance.
            sums: systems that are sums of others -> the names of these.
        """
        split_up = by_protocol(results)
        together = {
            name: {protocol: pooled(of[name]) for protocol, of in split_up.items() if name in of} for name in results
        }
        return cls(
            {protocol: {name: compared(seen, ks) for name, seen in of.items()} for protocol, of in split_up.items()},
            baseline,
            {
                protocol: differences({name: of[name] for name in of if name != "chance"}, baseline, tested)
                for protocol, of in split_up.items()
                if baseline in of
            },
            summarise(together, parts, ks)["slices"],
            len(np.unique(next(iter(results.values()))[0]["kept"].users)),
            {
                name: against_best(results[name], {part: results[part] for part in of}, tested)
                for name, of in (sums or {}).items()
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `systems` has the figures under the protocol `kept`, `excluded` and `learned` those under these."""
        return {
            "users": self.users,
            "baseline": self.baseline,
            **{
                FIELDS[protocol]: {name: found.to_dict() for name, found in of.items()}
                for protocol, of in self.systems.items()
            },
            "differences": self.differences,
            "slices": self.slices,
            "best_parts": self.best_parts,
        }


def protocols_table(
    systems: Mapping[str, Mapping[str, ComparedSystem]],
    published: Mapping[str, Sequence[PublishedValue]],
    costs: Costs,
    metrics: Sequence[str],
) -> Table:
    """A row per system, some metrics under every protocol side by side; the best of each column of ndcg in bold.

    Args:
        systems: protocol -> name -> figures.
        published: values that stand below a system, under the protocol `kept`; those of other systems stand at the end.
        costs: of the trainings.
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
        rows.append([name, *cells, *costs.cells(name)])
        rows += _published_rows(published.get(name, ()), columns, "  published")
    for name, values in published.items():
        if name not in systems["kept"]:
            rows += _published_rows(values, columns, "published")
    shown = [f"{metric} {protocol}" for protocol, metric in columns]
    return Table(["system", *shown, "training", "peak GiB"], rows, frozenset(strong))


def _published_rows(
    values: Sequence[PublishedValue], columns: Sequence[tuple[str, str]], label: str
) -> list[list[str]]:
    """A row for each system of a paper."""
    systems: dict[tuple[str, bool], dict[str, float]] = {}
    for value in values:
        systems.setdefault((value.system, value.pretrained), {})[value.metric] = value.value
    return [
        [
            f"{label}: {system}{', pre-trained' if pretrained else ''}",
            *(f"{of[metric]:.4f}" if protocol == "kept" and metric in of else "" for protocol, metric in columns),
            "",
            "",
        ]
        for (system, pretrained), of in systems.items()
    ]


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
            cells.append(_shown_p(test))
        rows.append(cells)
    return Table(columns, rows)


def _shown_p(test: Mapping[str, float]) -> str:
    """The corrected p-value; as a bound where no resample differs as much, as the test can tell no less."""
    if test["p_holm"] < 0.001:
        return "< 0.001"
    return (
        f"≤ {math.ceil(1000 * test['p_holm']) / 1000:.3f}" if test["p_value"] <= SMALLEST_P else f"{test['p_holm']:.3f}"
    )


def best_parts_table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """A row for each sum of systems and protocol: its best part, and the differences to it with 95 % intervals."""
    metrics = [name for name in next(iter(next(iter(found.values())).values())) if name != "part"]
    rows = [
        [
            name,
            protocol,
            of_protocol["part"],
            *(
                f"{test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f})"
                for test in (of_protocol[metric] for metric in metrics)
            ),
        ]
        for name, of_system in found.items()
        for protocol, of_protocol in of_system.items()
    ]
    return Table(["system", "protocol", "best part", *metrics], rows)
