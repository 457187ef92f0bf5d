"""The first stage of VQ-Rec's fine-tuning: learns a permutation of each codebook and freezes all loaded weights.

`run/permutation/` gets `metrics.csv`, checkpoints until the stage is done, then `order.npy` and `metrics.json`.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from linguarec.arrays import save_array
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.family import Request
from linguarec.families.next_item import NextItemData
from linguarec.families.vqrec.code_permutation import reorder
from linguarec.families.vqrec.model import VQRec
from linguarec.families.vqrec.permuted import PermutedVQRec
from linguarec.files import writing_file
from linguarec.processes import is_main_process
from linguarec.stored import AGAIN, read_array
from linguarec.training.record import MONITOR
from linguarec.training.stages import Fit, PlannedStage, StageResult

FOLDER, ORDER_FILE = "permutation", "order.npy"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PermutationSettings:
    """The first stage of VQ-Rec's fine-tuning: it learns a permutation of each codebook, all other weights are frozen.

    Args:
        epochs: of this stage; the best one on valid is kept.
        learning_rate: of Adam on the permutations' logits.
        temperature: divisor of the logits before they are normalised.
        rounds: normalisations of rows and columns (Sinkhorn).
    """

    epochs: int = 5
    learning_rate: float = 0.01
    temperature: float = 1.0
    rounds: int = 3

    def check(self) -> None:
        """Raise one error that names every invalid setting."""
        problems = []
        if self.epochs < 1:
            problems.append(
                f"permutation.epochs is {self.epochs}; it must be at least 1 (without a permutation: --mode direct)"
            )
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                problems.append(f"permutation.{name} is {getattr(self, name)}; it must be above 0")
        if self.rounds < 1:
            problems.append(f"permutation.rounds is {self.rounds}; it must be at least 1")
        if problems:
            raise SettingsError(problems)


def permutation_stage(
    request: Request, settings: PermutationSettings
) -> Callable[[nn.Module, NextItemData], PlannedStage]:
    """The stage that learns which pre-trained embedding each code takes; it keeps the order [M, K] that is best on valid.

    Args:
        request: of the whole fine-tuning; its training settings apply, except those that `settings` overrides.
        settings: of this stage.

    Returns:
        A function that makes the stage from the network, whose code embeddings belong to another codebook, and the data.
    """

    def stage(network: nn.Module, data: NextItemData) -> PlannedStage:
        assert isinstance(network, VQRec)
        folder = request.output / FOLDER

        def begin(before: Sequence[StageResult]) -> Fit:
            from linguarec.training.module import FineTuning

            learner = PermutedVQRec(copy.deepcopy(network), settings.temperature, settings.rounds)
            start = data.validate(learner)[MONITOR]
            if is_main_process():
                log.info("valid %s without a permutation: %.4f", MONITOR, start)
            schedule = replace(
                request.training,
                learning_rate=settings.learning_rate,
                weight_decay=0.0,
                averaging=0.0,
                max_epochs=settings.epochs,
                patience=settings.epochs,
            )
            steps = data.loader(request.training, request.seed)
            stage = FineTuning(learner, data.candidates, steps, schedule, request.seed)
            return Fit(stage, data.validate, lambda now: _save_order(now, folder), before=start)

        def take_over(folder: Path) -> None:
            # The file was written before the last checkpoint, at which all processes synchronise.
            file, (books, centroids) = folder / ORDER_FILE, network.shape.needs_codes()
            found = read_array(file, CheckpointMismatchError, AGAIN, dtype=np.int64, shape=(books, centroids))
            if not np.array_equal(np.sort(found, axis=1), np.tile(np.arange(centroids), (books, 1))):
                raise CheckpointMismatchError(f"{file} does not hold a permutation of each codebook. {AGAIN}")
            order = torch.from_numpy(found)
            with torch.no_grad():
                network.codes.weight.copy_(reorder(network.codes.weight, order))

        return PlannedStage(FOLDER, "a permutation of each codebook", begin, take_over)

    return stage


def _save_order(learner: nn.Module, folder: Path) -> None:
    assert isinstance(learner, PermutedVQRec)
    with writing_file(folder / ORDER_FILE) as temporary:
        save_array(temporary, learner.permutation.order().cpu().numpy())
