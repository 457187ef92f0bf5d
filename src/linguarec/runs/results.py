"""The results of a training: `metrics.json`, the learning curve, the table on the screen."""

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from linguarec.evaluation.plots import plot_learning_curves
from linguarec.families.family import Plan, Request
from linguarec.files import write_json
from linguarec.ranking.scorer import LeftOut
from linguarec.runs.tables import plain_console
from linguarec.training.fit import CURVE_FILE
from linguarec.training.stages import STAGE_FILE, StageResult

METRICS_FILE = STAGE_FILE  # of the last stage, which is the run itself


def metrics_of(request: Request, plan: Plan, results: Sequence[StageResult], cut: LeftOut | None) -> dict[str, Any]:
    """The content of `metrics.json` before the test: the best epoch of the last stage that had one, and each stage's result."""
    best = max(number for number, result in enumerate(results) if result.best_epoch >= 0)
    before = {
        planned.name: {key: value for key, value in asdict(result).items() if value is not None}
        for planned, result in zip(plan.stages[:-1], results, strict=False)
    }
    return {
        "run": str(request.output),
        "model": plan.description.name,
        "seed": request.seed,
        **({"best_stage": best + 1, "stages": before} if before else {}),
        "best_epoch": results[best].best_epoch,
        "epochs": sum(result.epochs for result in results),
        "seconds": round(sum(result.seconds for result in results), 1),
        **({} if cut is None else {"cut": cut}),
        "valid": results[best].valid,
    }


def write_results(output: Path, data_name: str, metrics: Mapping[str, Any]) -> None:
    """Write and show the results of a run, plot its learning curve, and remove files that only resuming needs."""
    name = metrics["model"]
    curve = {name: learning_curve(output)}
    plot_learning_curves(output / "plots" / "learning_curve.png", f"{name} on {data_name}", "valid ndcg@10", curve)
    write_json(output / METRICS_FILE, metrics)
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    show_metrics(metrics)


def show_metrics(metrics: Mapping[str, Any], note: str = "") -> None:
    """Print the metrics of the best epoch on valid and, if it was tested, on test."""
    stage = f" of stage {metrics['best_stage']}" if "best_stage" in metrics else ""
    table = Table(
        title=f"{metrics['model']}, best of {metrics['epochs']} epochs: {metrics['best_epoch']}{stage} {note}".strip()
    )
    names = list(metrics["valid"])
    for column in ("part", *names):
        table.add_column(column)
    for part in ("valid", "test"):
        if part in metrics:
            table.add_row(part, *(f"{metrics[part][key]:.4f}" for key in names))
    console = plain_console()
    console.print(table)
    console.print(f"run folder: {metrics['run']}")


def learning_curve(run: Path) -> tuple[list[float], list[float]]:
    """Epochs of a run and the valid ndcg@10 after each, over all stages in order."""
    epochs: list[float] = []
    values: list[float] = []
    for file in (*sorted(run.glob(f"*/{CURVE_FILE}")), run / CURVE_FILE):
        if file.exists():
            with file.open(newline="", encoding="utf-8") as opened:
                rows = list(csv.DictReader(opened))
            before = len(epochs)
            epochs += [before + float(row["epoch"]) for row in rows]
            values += [float(row["valid ndcg@10"]) for row in rows]
    return epochs, values
