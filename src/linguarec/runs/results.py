"""The results of a training: `metrics.json`, the learning curve, the table on the screen."""

import csv
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from linguarec.durations import duration_text
from linguarec.evaluation.plots import plot_learning_curves
from linguarec.families.family import Plan, Request
from linguarec.files import write_json
from linguarec.portable import portable_values
from linguarec.ranking.scorer import LeftOut
from linguarec.result import Result, metrics_line
from linguarec.runs.tables import plain_console
from linguarec.training.record import CURVE_FILE
from linguarec.training.stages import CHECKPOINTS, STAGE_FILE, StageResult

_PARTS = {  # of the metrics of a training -> as they are shown
    "valid": "valid",
    "test": "test",
    "test_excluded": "test, history excluded",
    "test_learned": "test, repeats learned",
}
METRICS_FILE = STAGE_FILE  # of the last stage, which is the run itself


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TrainingResult(Result):
    """Figures of a training.

    `best_epoch`: of the last stage that had one, `best_stage`, from 1; `epochs`, `seconds`: of all stages. `stages`: name ->
    result of each stage before the last. `cut`: how many histories and items are longer than the model reads. `valid`: metrics
    of the best epoch; `valid_protocol`: "excluded" if they are without the items of the history, else None.
    """

    run: str
    model: str
    seed: int
    best_stage: int | None = None
    stages: dict[str, dict[str, Any]] | None = None
    best_epoch: int
    epochs: int
    seconds: float
    cut: LeftOut | None = None
    valid_protocol: str | None = None
    valid: dict[str, float]

    def best(self) -> str:
        """Which epoch was kept, for a title; empty after a single epoch, which is also how a closed form is recorded."""
        if self.epochs == 1:
            return ""
        stage = "" if self.best_stage is None else f" of stage {self.best_stage}"
        return f", {self.epochs} epochs, best epoch {self.best_epoch}{stage} (numbered from 0)"

    def valid_name(self) -> str:
        """What `valid` is, as it is shown."""
        return _PARTS["valid"] if self.valid_protocol is None else f"{_PARTS['valid']}, history {self.valid_protocol}"

    def _lines(self) -> list[str]:
        return [
            f"{self.model}, seed {self.seed}{self.best()}, {duration_text(self.seconds)}",
            f"{self.valid_name()}: {metrics_line(self.valid)}",
            f"run folder: {self.run}",
        ]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FinetuneResult(TrainingResult):
    """Figures of a fine-tuning.

    `test`: metrics of the best weights, with the items of the history among the candidates; `test_excluded`: without them;
    `test_learned`: with the repeat term. The latter two are None in a run of an earlier version. `below_popularity`: where
    ranking by popularity alone is better on valid (protocol -> ndcg@10 of both), and what to `try`; None = nowhere. `chosen`:
    settings of the model that were chosen on valid; None = none.
    """

    test: dict[str, float]
    test_excluded: dict[str, float] | None = None
    test_learned: dict[str, float] | None = None
    below_popularity: dict[str, Any] | None = None
    chosen: dict[str, Any] | None = None

    def _lines(self) -> list[str]:
        *lines, folder = super()._lines()
        tests = {"test": self.test, "excluded": self.test_excluded, "learned": self.test_learned}
        warning = self.popularity_line()
        shown = [f"{name}: {metrics_line(found)}" for name, found in tests.items() if found]
        chosen = ", ".join(f"{name} {value:g}" for name, value in (self.chosen or {}).items())
        return [
            *lines,
            *([f"chosen on valid: {chosen}"] if chosen else []),
            *shown,
            folder,
            *([] if warning is None else [warning]),
        ]

    def popularity_line(self) -> str | None:
        """That popularity does better, and what may serve better; None = it does not."""
        if self.below_popularity is None:
            return None
        figures = ", ".join(
            f"{protocol} {found['popularity']:.4f}, this model {found['model']:.4f}"
            for protocol, found in self.below_popularity["valid_ndcg@10"].items()
        )
        others = ", ".join(f"`linguarec finetune {name}`" for name in self.below_popularity["try"][:-1])
        return (
            f"ranking by popularity alone does better on valid (all cases, in float32): ndcg@10 {figures}. This model serves "
            f"these users worse than counting; try {others}, or several of them as one: `linguarec blend`"
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PretrainResult(TrainingResult):
    """Figures of a pre-training. `domains`: name -> number of targets in an epoch, None where they are not counted."""

    domains: dict[str, int | None]

    def _lines(self) -> list[str]:
        *lines, folder = super()._lines()
        return [*lines, f"domains: {', '.join(self.domains)}", folder]


def metrics_of(request: Request, plan: Plan, results: Sequence[StageResult], run: Path) -> dict[str, Any]:
    """Fields of a `TrainingResult`: the best epoch of the last stage that had one, and each stage's result."""
    cut = plan.left_out()
    best = max(number for number, result in enumerate(results) if result.best_epoch >= 0)
    before = {planned.name: result.to_dict() for planned, result in zip(plan.stages[:-1], results, strict=False)}
    return {
        "run": str(run),
        "model": plan.description.name,
        "seed": request.seed,
        **({"best_stage": best + 1, "stages": before} if before else {}),
        "best_epoch": results[best].best_epoch,
        "epochs": sum(result.epochs for result in results),
        "seconds": round(sum(result.seconds for result in results), 1),
        **({} if cut is None else {"cut": cut}),
        **({"valid_protocol": "excluded"} if request.training.exclude_history else {}),
        "valid": results[best].valid,
    }


def write_results(place: Path, data_name: str, metrics: TrainingResult, show: bool = True) -> None:
    """Write and, if wanted, show the results of a run, plot its learning curve, and remove files that only resuming needs."""
    name = metrics.model
    curve = {name: learning_curve(place)}
    plot_learning_curves(place / "plots" / "learning_curve.png", f"{name} on {data_name}", "valid ndcg@10", curve)
    write_json(place / METRICS_FILE, portable_values(metrics.to_dict(), Path(metrics.run), ("run",)))
    remove_checkpoints(place)
    if show:
        show_metrics(metrics)


def remove_checkpoints(place: Path) -> None:
    """Remove the files that only resuming needs."""
    shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)


def show_metrics(metrics: TrainingResult, note: str = "") -> None:
    """Print the metrics of the best epoch on valid and, if it was tested, on test."""
    table = Table(title=metrics.model + metrics.best() + (f"; {note}" if note else ""))
    names = list(metrics["valid"])
    for column in ("part", *names):
        table.add_column(column)
    for part, shown in _PARTS.items():
        if part in metrics:
            shown = metrics.valid_name() if part == "valid" else shown
            table.add_row(shown, *(f"{metrics[part][key]:.4f}" for key in names))
    console = plain_console()
    console.print(table)
    console.print(f"run folder: {metrics['run']}")


def learning_curve(run: Path) -> tuple[list[float], list[float]]:
    """Epochs of a run and the valid ndcg@10 after each, over all stages in order; without those that were not validated."""
    epochs: list[float] = []
    values: list[float] = []
    before = 0
    for rows in _curves(run):
        validated = [row for row in rows if "valid ndcg@10" in row]
        epochs += [before + float(row["epoch"]) for row in validated]
        values += [float(row["valid ndcg@10"]) for row in validated]
        before += len(rows)
    return epochs, values


def peak_memory_of(run: Path) -> float | None:
    """Largest resident memory of the training of a run in GiB, over all stages; None = not recorded."""
    found = [float(row["peak_memory_gib"]) for rows in _curves(run) for row in rows if row.get("peak_memory_gib")]
    return max(found, default=None)


def _curves(run: Path) -> Iterator[list[dict[str, str]]]:
    """The rows of each stage's epochs, the run itself last."""
    for file in (*sorted(run.glob(f"*/{CURVE_FILE}")), run / CURVE_FILE):
        if file.exists():
            with file.open(newline="", encoding="utf-8") as opened:
                yield list(csv.DictReader(opened))
