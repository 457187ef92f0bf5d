"""Runs the stages of a training in order; each can be resumed.

The last stage writes into the run folder itself, every other one into a subfolder of its name: `metrics.csv`, checkpoints
until it is done, the files that it keeps, and at its end `metrics.json`, which tells a resumed training that the stage is done.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from linguarec.errors import CheckpointMismatchError
from linguarec.files import write_json
from linguarec.processes import is_main_process
from linguarec.stored import AGAIN, read_record
from linguarec.training.record import Metrics

if TYPE_CHECKING:
    from linguarec.training.module import Stage

STAGE_FILE = "metrics.json"
CHECKPOINTS = "checkpoints"  # folder of a stage until it is done
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """The result of a stage.

    `valid`: the metrics of its best epoch; empty if no epoch was better than the previous stage, or without validation; then
    `best_epoch` is -1. `before`: the monitored metric before its first step; None = not measured. `steps`: optimiser steps
    taken. `chosen`: settings of the model that the stage chose itself; None = none.
    """

    valid: Metrics
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    before: float | None = None
    chosen: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it is recorded: what is None is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Fit:
    """A stage of gradient steps, ready to run.

    `stage`: the Lightning module. `validate`: valid metrics of a network; None = none, the last weights are kept. `keep`: saves
    the best weights. `before`: metric before the first step, for the record; None = not measured. `best_before`: metric that
    must be exceeded.
    """

    stage: "Stage"
    validate: Callable[[nn.Module], Metrics] | None
    keep: Callable[[nn.Module], None]
    before: float | None = None
    best_before: float = -1.0

    def run(self, folder: Path, resume: bool) -> StageResult:
        """Train; every process returns the same result."""
        from linguarec.training.fit import fit  # Lightning takes seconds to import, and a run in use does not need it

        result = fit(self.stage, folder, self.validate, self.keep, resume, self.best_before)
        best = next((row for row in result.history if row["epoch"] == result.best_epoch), {})
        return StageResult(
            valid={key.removeprefix("valid "): value for key, value in best.items() if key.startswith("valid ")},
            best_epoch=result.best_epoch,
            epochs=result.epochs,
            steps=result.history[-1]["step"],
            seconds=result.seconds,
            before=self.before,
        )


class Runnable(Protocol):
    """A stage that can run: gradient steps (`Fit`), or a closed form."""

    def run(self, folder: Path, resume: bool) -> StageResult:
        """Run the stage; every process returns the same result."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan.

    `name`: of its subfolder in the run; the last stage uses the run folder. `title`: logged when it begins, "" = nothing.
    `begin`: makes the stage from the results of the earlier stages; called only if the stage is not done yet.
    `take_over`: called with its folder when it is done, now or in an earlier process; loads the files that it kept.
    """

    name: str
    title: str
    begin: Callable[[Sequence[StageResult]], Runnable]
    take_over: Callable[[Path], None] = lambda folder: None


def keeps_progress(run: Path) -> bool:
    """Whether an interrupted training left a checkpoint, or a finished stage, to go on from."""
    kept = (f"{CHECKPOINTS}/*", f"*/{CHECKPOINTS}/*", f"*/{STAGE_FILE}")
    return any(path for pattern in kept for path in run.glob(pattern))


def run_stages(stages: Sequence[PlannedStage], run: Path, resume: bool) -> list[StageResult]:
    """Run the stages in order and return the result of each, the same in every process.

    Args:
        stages: of the plan; at least one.
        run: folder of the run.
        resume: skip finished stages and continue an interrupted one.
    """
    results: list[StageResult] = []
    for number, planned in enumerate(stages, start=1):
        last = number == len(stages)
        folder = run if last else run / planned.name
        file = folder / STAGE_FILE
        if not last and resume and file.exists():
            result = read_record(StageResult, file, "a stage of a training", CheckpointMismatchError, AGAIN)
            if planned.title and is_main_process():
                log.info("stage %d has finished before: %s", number, planned.title)
        else:
            if planned.title and is_main_process():
                log.info("stage %d: %s", number, planned.title)
            result = planned.begin(results).run(folder, resume)
            if not last and is_main_process():
                write_json(file, result.to_dict())
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        results.append(result)
        planned.take_over(folder)
    return results
