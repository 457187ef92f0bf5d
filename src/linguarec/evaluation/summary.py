"""Summarises ranks: means with intervals, overall and for each slice, as JSON and as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from linguarec.evaluation.evaluate import EvaluationResult
from linguarec.evaluation.intervals import Interval, bootstrap_interval
from linguarec.evaluation.report import Table
from linguarec.evaluation.slices import Slice

Intervals = dict[str, Interval]


def intervals(result: EvaluationResult, ks: Sequence[int], seed: int = 0) -> Intervals:
    """Every metric's mean over the users with its interval."""
    return {name: bootstrap_interval(values, seed=seed) for name, values in result.per_user(ks).items()}


def summarise(
    systems: Mapping[str, EvaluationResult], parts: Sequence[Slice], ks: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """All systems, overall and for each slice.

    Returns:
        `systems`: name -> metric -> mean, low, high. `slices`: for each its group, name, cases, users and `systems`.
    """
    first = next(iter(systems.values()))  # all have the same cases; with pooled seeds, each case once per seed
    return {
        "systems": {name: _to_dict(intervals(result, ks, seed)) for name, result in systems.items()},
        "slices": [
            {
                "group": part.group,
                "name": part.name,
                "cases": len(np.unique(first.cases[part.mask])),
                "users": len(np.unique(first.users[part.mask])),
                "systems": {
                    name: _to_dict(intervals(result.select(part.mask), ks, seed)) for name, result in systems.items()
                },
            }
            for part in parts
        ],
    }


def systems_table(summary: Mapping[str, Any]) -> Table:
    """One row per metric, one column per system: means with half the width of their intervals."""
    systems = summary["systems"]
    metrics = list(next(iter(systems.values())))
    rows = [[metric, *(str(_interval(found[metric])) for found in systems.values())] for metric in metrics]
    return Table(["mean over users", *systems], rows)


def slices_table(summary: Mapping[str, Any], metric: str) -> Table:
    """One row per slice, one column per system (without chance): means of one metric with half the width of its intervals."""
    systems = [name for name in summary["systems"] if name != "chance"]
    rows = [
        [
            f"{part['group']}: {part['name']}",
            f"{part['users']:,}",
            *(str(_interval(part["systems"][name][metric])) for name in systems),
        ]
        for part in summary["slices"]
    ]
    return Table([metric, "users", *systems], rows)


def slice_series(summary: Mapping[str, Any], group: str, metric: str) -> dict[str, list[tuple[str, Interval]]]:
    """For a plot: each system's means over the parts of one group of slices."""
    parts = [part for part in summary["slices"] if part["group"] == group]
    return {
        name: [(part["name"], _interval(part["systems"][name][metric])) for part in parts]
        for name in summary["systems"]
    }


def _to_dict(found: Intervals) -> dict[str, dict[str, float]]:
    return {name: asdict(interval) for name, interval in found.items()}


def _interval(found: Mapping[str, Any]) -> Interval:
    return Interval(**found)
