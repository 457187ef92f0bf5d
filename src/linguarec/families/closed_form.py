"""The one stage of families without gradient steps: what they know is computed at once."""

import csv
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from linguarec.data.splits import EvaluationCases
from linguarec.data.training_data import TrainingData
from linguarec.evaluation.evaluate import rank_cases
from linguarec.families.family import ModelDescription, Plan, Request
from linguarec.families.weights import save_model
from linguarec.files import writing_file
from linguarec.memory import peak_memory_gib
from linguarec.processes import is_main_process
from linguarec.ranking.scorer import Scorer
from linguarec.sources.source import ItemSource
from linguarec.training.record import CURVE_FILE
from linguarec.training.stages import PlannedStage, StageResult

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoOptions:
    """There are no options beside the settings of the model."""


@dataclass(frozen=True)
class VectorOptions:
    """The item vectors.

    Args:
        features: name of the item text vectors; not needed if the folder has one kind
    """

    features: str | None = None


@dataclass(frozen=True, eq=False)
class Solve:
    """Computes what the model knows, validates it once, and keeps it. There is nothing to resume: it starts again."""

    compute: Callable[[], None]
    scorer: Scorer
    description: ModelDescription
    source: ItemSource
    valid: EvaluationCases

    def run(self, folder: Path, resume: bool) -> StageResult:
        """See `linguarec.training.stages.Runnable`."""
        started = time.perf_counter()
        self.compute()
        solved = time.perf_counter()
        inputs, keys = self.scorer.encode(self.source)
        valid = rank_cases(self.scorer, inputs, self.scorer.ranker(keys), self.valid).means()
        seconds, valid_seconds = solved - started, time.perf_counter() - solved
        if is_main_process():
            row = {
                "epoch": 0,
                "step": 0,
                **{f"valid {name}": value for name, value in valid.items()},
                "seconds": seconds,
                "valid_seconds": valid_seconds,
                "peak_memory_gib": peak_memory_gib(),
            }
            with (
                writing_file(folder / CURVE_FILE) as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, fieldnames=list(row))
                writer.writeheader()
                writer.writerow(row)
            save_model(self.scorer.network, self.description, folder)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in valid.items())
            log.info("solved in %.1f s  valid %s  %.1f s", seconds, shown, valid_seconds)
        return StageResult(valid, best_epoch=0, epochs=1, steps=0, seconds=seconds + valid_seconds)


def plan_closed_form(
    request: Request,
    source: ItemSource,
    scorer_of: Callable[[nn.Module], Scorer],
    fit: Callable[[Any, TrainingData], None],
    needs: str,
) -> Plan:
    """The plan of a family whose network is fitted at once.

    Args:
        request: the requested training.
        source: all items of the folder.
        scorer_of: makes the scorer of the network.
        fit: computes what the network knows of the training sequences.
        needs: what it needs, for the log.

    Raises:
        DataFormatError: there are no training targets, or no valid cases.
    """
    family, training = request.family, request.training
    description = ModelDescription(family, request.config or family.config(), None, source.shape)
    network = description.build()
    scorer = scorer_of(network)
    data = TrainingData.of(
        request.dataset, request.split, request.users, training.valid_users, request.seed, scorer.max_length
    )

    def begin() -> None:
        if is_main_process():
            log.info(
                "%s is solved at once: of --training.* only valid_users and accelerator are read. %s",
                family.name,
                needs,
            )

    def make(before: Sequence[StageResult]) -> Solve:
        return Solve(lambda: fit(network, data), scorer, description, source, data.valid)

    stages = [PlannedStage("", "", make)]
    return Plan(description, network, source, stages, request.options, None, source.settings(), begin)
