"""Summarises ranks: means with intervals, overall and for each slice, as JSON and as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from linguarec.evaluation.evaluate import EvaluationResult, Protocols
from linguarec.evaluation.intervals import Interval, bootstrap_intervals
from linguarec.evaluation.report import Table
from linguarec.evaluation.slices import Slice

FIELDS = {"kept": "systems", "excluded": "excluded", "learned": "learned"}  # protocol -> its field in a summary


def summarise(
    systems: Mapping[str, Protocols], parts: Sequence[Slice], ks: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """All systems under every protocol, overall and for each slice.

    A result may hold the same cases several times, as that of several seeds does (`linguarec.evaluation.comparison.pooled`).

    Returns:
        `systems`, under the protocol `kept`: name -> metric -> mean, low, high; `excluded` and `learned`: the same under those.
        `slices`: for each its group, name, cases, users, `systems`, `excluded` and `learned`.
    """
    first = next(iter(systems.values()))["kept"]  # all have the same cases
    return {
        **{FIELDS[name]: found for name, found in _by_protocol(systems, ks, seed).items()},
        "slices": [
            {
                "group": part.group,
                "name": part.name,
                "cases": int(part.mask.sum()),
                "users": len(np.unique(_selected(first, part).users)),
                **{
                    FIELDS[name]: found
                    for name, found in _by_protocol(
                        {
                            system: {protocol: _selected(result, part) for protocol, result in of.items()}
                            for system, of in systems.items()
                        },
                        ks,
                        seed,
                    ).items()
                },
            }
            for part in parts
        ],
    }


def _selected(result: EvaluationResult, part: Slice) -> EvaluationResult:
    return result.select(np.tile(part.mask, len(result) // len(part.mask)))


def _by_protocol(systems: Mapping[str, Protocols], ks: Sequence[int], seed: int) -> dict[str, dict[str, Any]]:
    """Protocol -> name -> metric -> mean, low, high, for those systems that have the protocol."""
    found: dict[str, dict[str, Any]] = {}
    for protocol in FIELDS:
        values = {
            (name, metric): per_user
            for name, of in systems.items()
            if protocol in of
            for metric, per_user in of[protocol].per_user(ks).items()
        }
        for (name, metric), interval in bootstrap_intervals(values, seed=seed).items():
            found.setdefault(protocol, {}).setdefault(name, {})[metric] = asdict(interval)
    return found


def systems_table(summary: Mapping[str, Any], metrics: Sequence[str]) -> Table:
    """One row per metric and protocol, one column per system: means with half the width of their intervals."""
    rows = [
        [f"{metric}, {protocol}", *(str(_interval(of[metric])) for of in summary[field].values())]
        for metric in metrics
        for protocol, field in FIELDS.items()
        if summary.get(field)
    ]
    return Table(["mean over users", *summary["systems"]], rows)


def slices_table(summary: Mapping[str, Any], metric: str, protocol: str = "kept", most: int | None = None) -> Table:
    """One row per slice, one column per system (without chance): means of one metric with half the width of its intervals.

    `most`: show only so many systems, the best ones (`best_systems`).
    """
    systems = best_systems(summary, metric, protocol, most)
    rows = [
        [
            f"{part['group']}: {part['name']}",
            f"{part['users']:,}",
            *(str(_interval(part[FIELDS[protocol]][name][metric])) for name in systems),
        ]
        for part in summary["slices"]
    ]
    return Table([metric, "users", *systems], rows)


def slice_series(
    summary: Mapping[str, Any], group: str, metric: str, most: int | None = None
) -> dict[str, dict[str, list[tuple[str, Interval]]]]:
    """For a plot: protocol -> system -> its means over the parts of one group of slices.

    `most`: only so many systems, the same ones under every protocol: the best under the last protocol, without chance.
    """
    parts = [part for part in summary["slices"] if part["group"] == group]
    fields = {protocol: field for protocol, field in FIELDS.items() if summary.get(field)}
    names = list(summary["systems"]) if most is None else best_systems(summary, metric, list(fields)[-1], most)
    return {
        protocol: {
            name: [(part["name"], _interval(part[field][name][metric])) for part in parts]
            for name in names
            if name in summary[field]
        }
        for protocol, field in fields.items()
    }


def best_systems(summary: Mapping[str, Any], metric: str, protocol: str, most: int | None = None) -> list[str]:
    """The systems without chance, in their order; with `most` only so many, the best ones by a metric under a protocol."""
    of = {name: found[metric]["mean"] for name, found in summary[FIELDS[protocol]].items() if name != "chance"}
    chosen = sorted(of, key=lambda name: of[name], reverse=True)[:most]
    return [name for name in of if name in chosen]


def _interval(found: Mapping[str, Any]) -> Interval:
    return Interval(**found)
