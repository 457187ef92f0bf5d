"""The report of a tuning: the best settings, all trials, what matters, parallel coordinates."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linguarec.evaluation.plots import ParallelAxis, plot_learning_curves, plot_parallel_coordinates
from linguarec.evaluation.report import Figure, Section, Table, write_report
from linguarec.ranges import Between, Value
from linguarec.runs.search_space import Searched

METRIC = "ndcg@10"


def write_tuning_report(path: Path, found: Mapping[str, Any], searched: tuple[Searched, ...]) -> None:
    """Draw the plots and write the report.

    Args:
        path: HTML file to write; the plots are in `plots/` beside it.
        found: the content of tuning.json.
        searched: the settings.
    """
    title = f"{found['model']} on {found['data']}: tuning"
    done = [row for row in found["trials"] if row["state"] == "done"]
    best = found["best"]
    sections = [
        Section("Best settings", table=_best_table(found), note=_note(found)),
        Section("Trials and their settings", figures=_figures(path.parent / "plots", title, found, searched)),
        Section("All trials", table=_trials_table(found), note="Seconds include the validations."),
        Section(
            "Repeat",
            text=f"Trains with the settings of trial {best['number']}; the seed is among them.",
            commands=[f"linguarec finetune {found['model']} DATA --config {Path(found['config']).name} -o RUN"],
        ),
    ]
    gain = "" if found["default"] is None else f", {found['default']:.4f} with the defaults"
    pruned = sum(row["state"] == "pruned" for row in found["trials"])
    valid = f"valid {METRIC}{protocol_text(found['protocol'])}"
    summary = f"{len(done)} trials done and {pruned} pruned. Best {valid}: {best['value']:.4f}{gain}."
    write_report(path, title, sections, summary)


def _best_table(found: Mapping[str, Any]) -> Table:
    explained = found["importance"]
    columns = ["setting", "best", "default", "range", *(["importance"] if explained else [])]
    rows = [
        [
            flag,
            setting_text(found["best"]["settings"][flag]),
            setting_text(of["default"]),
            of["range"],
            *([f"{100 * explained.get(flag, 0.0):.0f} %"] if explained else []),
        ]
        for flag, of in found["searched"].items()
    ]
    return Table(columns, rows)


def _note(found: Mapping[str, Any]) -> str:
    parts = []
    if found["importance"]:
        parts.append(
            "Importance: fraction of the differences between trials that a setting explains (PED-ANOVA), a rough figure "
            "with few trials."
        )
    if found["test"]:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in found["test"].items())
        parts.append(
            f"The best run on test{protocol_text(found['protocol'])}: {shown}. Settings were chosen by valid alone."
        )
    if found["running"]:
        parts.append(f"{found['running']} trials are still running in other processes.")
    return " ".join(parts)


def _trials_table(found: Mapping[str, Any]) -> Table:
    rows = found["trials"]
    columns = ["trial", "state", METRIC, *found["searched"], "epochs", "seconds"]
    cells = [
        [
            str(row["number"]),
            row["state"],
            "" if row["value"] is None else f"{row['value']:.4f}",
            *(setting_text(row["settings"].get(flag, "")) for flag in found["searched"]),
            "" if row["epochs"] is None else str(row["epochs"]),
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
        ]
        for row in rows
    ]
    strong = frozenset(place for place, row in enumerate(rows) if row["number"] == found["best"]["number"])
    return Table(columns, cells, strong)


def _figures(folder: Path, title: str, found: Mapping[str, Any], searched: tuple[Searched, ...]) -> list[Figure]:
    done = [row for row in found["trials"] if row["state"] == "done"]
    ended = [row for row in found["trials"] if row["state"] == "pruned"]
    values = [row["value"] for row in done]
    low, high = min(values), max(values)
    axes = [ParallelAxis(each.flag, _ticks(each)) for each in searched]
    axes.append(ParallelAxis(METRIC, [(0.0, f"{low:.4f}"), (1.0, f"{high:.4f}")]))
    settings = {id(row): [_height(each, row["settings"][each.flag]) for each in searched] for row in (*done, *ended)}
    lines = [[*settings[id(row)], (row["value"] - low) / (high - low or 1.0)] for row in done]
    parallel = folder / "parallel_coordinates.png"
    plot_parallel_coordinates(parallel, title, axes, lines, [settings[id(row)] for row in ended])
    history = folder / "history.png"
    so_far = [max(values[: number + 1]) for number in range(len(values))]
    numbers = [float(row["number"]) for row in done]
    curves = {"best so far": (numbers, so_far), "trial": (numbers, values)}
    plot_learning_curves(history, title, f"valid {METRIC}", curves, horizontal="trial")
    return [
        Figure(
            parallel,
            "Each line is a trial: its settings, and at the right its valid ndcg@10; the darker, the better, the best in "
            "orange. Dotted: pruned.",
        ),
        Figure(history, "Valid ndcg@10 of the trials in order, and the best so far."),
    ]


def _ticks(searched: Searched) -> list[tuple[float, str]]:
    return [(_height(searched, value), setting_text(value)) for value in searched.range.ends]


def _height(searched: Searched, value: Value) -> float:
    """Where a value stands in its range, from 0 to 1."""
    own = searched.range
    if not isinstance(own, Between):
        return own.values.index(value) / (len(own.values) - 1)
    assert not isinstance(value, str)
    if own.log:
        return math.log(value / own.low) / math.log(own.high / own.low)
    return (value - own.low) / (own.high - own.low)


def protocol_text(protocol: str) -> str:
    """What stands behind valid or test figures under a protocol."""
    return "" if protocol == "kept" else f", history {protocol}"


def setting_text(value: Any) -> str:
    """The value of a setting, as it is shown."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
