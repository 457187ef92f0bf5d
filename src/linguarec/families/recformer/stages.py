"""Recformer's stages: pre-training on pairs of token sequences, and fine-tuning in two stages (arXiv 2305.13731, section 2.5).

    stage 1   item vectors are re-encoded after every epoch and fixed within it; the best weights and their vectors are kept
    stage 2   starts from these weights, with their item vectors fixed; its weights are kept if they are better

One learning-rate schedule runs over both stages.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linguarec.arrays import save_array
from linguarec.batching.loader import TrainingBatch
from linguarec.batching.negatives import StepClasses
from linguarec.errors import CheckpointMismatchError
from linguarec.families.recformer.loaders import HistoryLoader, TokenPairsBatch, TokenPairsLoader
from linguarec.families.recformer.model import Recformer
from linguarec.families.recformer.scorer import ITEM_WEIGHTS_FILE
from linguarec.families.weights import load_weights, save_weights
from linguarec.files import writing_file
from linguarec.nn.gathering import Gathering
from linguarec.processes import is_main_process
from linguarec.stored import AGAIN, finite_problem, read_array
from linguarec.training.module import Stage
from linguarec.training.record import MONITOR, Metrics
from linguarec.training.settings import TrainingSettings
from linguarec.training.stages import Fit, PlannedStage, StageResult

STAGE_FOLDER, ITEM_KEYS_FILE = "stage1", "keys.npy"
log = logging.getLogger(__name__)


class TokenPreTraining(Stage):
    """`Recformer.pretrain_loss`: contrast among the targets of the step, over all processes, and masked-language modelling.

    Parameters without a gradient are frozen.
    """

    def __init__(self, model: Recformer, loader: TokenPairsLoader, settings: TrainingSettings, seed: int) -> None:
        if loader.masking is None:
            _train_only(model, model.finetuned_parameters())
        super().__init__(model, loader, settings, seed)

    def step_loss(self, batch: TokenPairsBatch) -> Tensor:
        """The model's loss, which is already scaled to this process's share of the step."""
        loss: Tensor = self.model.pretrain_loss(batch.pairs)  # type: ignore[operator]
        return loss


class HistoryTuning(Stage):
    """`Recformer.finetune_loss`: softmax of the next item over the items in training, or over a sample of them.

    Parameters without a gradient are frozen.

    Args:
        encode: computes the keys [N, D] of all items with a model, on its device.
        classes: [C] item rows, the classes of the softmax.
        keys: [N, D] of all items; None = encode them before the first step.
        steps_before: optimiser steps that the earlier stage took.
    """

    def __init__(
        self,
        model: Recformer,
        encode: Callable[[nn.Module], Tensor],
        classes: Tensor,
        loader: HistoryLoader,
        settings: TrainingSettings,
        seed: int,
        keys: Tensor | None = None,
        steps_before: int = 0,
    ) -> None:
        _train_only(model, model.finetuned_parameters())
        super().__init__(model, loader, settings, seed)
        self.encode_items = encode
        self.classes = classes
        self.class_of = torch.full((int(classes.max()) + 1,), -1).index_put((classes,), torch.arange(len(classes)))
        drawn = model.config.sampled_negatives
        self.drawn = drawn if drawn < len(classes) else 0  # 0 = softmax over all classes
        self.keys = keys
        self.earlier_steps = steps_before

    def encode(self, model: nn.Module) -> Tensor:
        """Encode all items with `model` and use the result as keys [N, D] from now on."""
        self.keys = self.encode_items(model)
        return self.keys

    def on_fit_start(self) -> None:
        """Move classes and keys to the device; encode the items if there are no keys."""
        self.classes, self.class_of = self.classes.to(self.device), self.class_of.to(self.device)
        if self.keys is None:
            with self.trainer.precision_plugin.forward_context():
                self.encode(self.result)
        else:
            self.keys = self.keys.to(self.device)

    def step_loss(self, batch: TrainingBatch) -> Tensor:
        """Mean over the histories of this process, times the step's `loss_scale`."""
        assert self.keys is not None
        sequences, rows, log_weights = batch.sequences, self.classes, None
        targets = self.class_of[sequences.targets]
        if self.drawn:
            of_step = Gathering.of(targets).whole(targets)
            chosen = StepClasses.draw(of_step.cpu().numpy(), len(rows), self.drawn, self.seed, batch.step)
            rows = rows[torch.from_numpy(chosen.classes).to(rows.device)]
            log_weights = torch.from_numpy(chosen.log_weights).to(rows.device)
            targets = torch.from_numpy(chosen.place(targets.cpu().numpy())).to(rows.device)
        of_classes = replace(sequences, targets=targets)
        mean: Tensor = self.model.finetune_loss(of_classes, self.keys[rows], log_weights)  # type: ignore[operator]
        return mean * batch.loss_scale

    @property
    def steps_planned(self) -> int:
        """Optimiser steps of both stages."""
        return 2 * super().steps_planned

    @property
    def steps_before(self) -> int:
        """Optimiser steps of the earlier stage."""
        return self.earlier_steps

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the keys, because the weights that made them no longer exist."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["stage"]["keys"] = self.keys

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the keys."""
        super().on_load_checkpoint(checkpoint)
        self.keys = checkpoint["stage"]["keys"]


def _train_only(model: nn.Module, reached: Iterable[nn.Parameter]) -> None:
    """Freeze all parameters except `reached`; already frozen ones stay frozen."""
    numbers = {id(parameter) for parameter in reached}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in numbers)


def two_stages(
    model: Recformer,
    classes: Tensor,
    loader: Callable[[], HistoryLoader],
    settings: TrainingSettings,
    seed: int,
    run: "RunParts",
) -> list[PlannedStage]:
    """The two stages of a fine-tuning; `max_epochs` and `patience` apply to each.

    Args:
        model: changed in place; afterwards it holds the last weights.
        classes: [C] item rows, the classes of the softmax.
        loader: makes the training steps.
        settings: of the training.
        seed: of all random draws.
        run: folder and functions of the run.
    """
    stage_folder = run.folder / STAGE_FOLDER
    keys_file, item_weights = stage_folder / ITEM_KEYS_FILE, run.folder / ITEM_WEIGHTS_FILE

    def first(before: Sequence[StageResult]) -> Fit:
        stage = HistoryTuning(model, run.encode, classes, loader(), settings, seed)

        def keep(current: nn.Module) -> None:
            save_weights(current, item_weights)
            with writing_file(keys_file) as temporary:
                assert stage.keys is not None
                save_array(temporary, stage.keys.cpu().numpy())
            run.keep(current)

        return Fit(stage, lambda now: run.rank(now, stage.encode(now)), keep)

    def second(before: Sequence[StageResult]) -> Fit:
        so_far = before[0].valid[MONITOR]
        if is_main_process():
            log.info("valid %s so far: %.4f", MONITOR, so_far)
        # The file was written before the last checkpoint, at which all processes synchronise.
        found = read_array(keys_file, CheckpointMismatchError, AGAIN, dtype=np.float32, shape=(None, None))
        if wrong := finite_problem(found):
            raise CheckpointMismatchError(f"{keys_file} {wrong}. {AGAIN}")
        keys = torch.from_numpy(found)
        load_weights(model, item_weights)
        steps = loader()
        steps.load_state_dict({"epoch": before[0].epochs, "next_step": 0})
        stage = HistoryTuning(model, run.encode, classes, steps, settings, seed, keys, before[0].steps)
        return Fit(stage, lambda now: run.rank(now, keys.to(stage.device)), run.keep, best_before=so_far)

    return [
        PlannedStage(STAGE_FOLDER, "item vectors encoded anew after every epoch", first),
        PlannedStage("", "item vectors fixed", second),
    ]


@dataclass(frozen=True)
class RunParts:
    """Folder and functions of a run that both stages use.

    `folder`: of the run. `encode`: computes the keys [N, D] of all items with a model, on its device. `rank`: valid metrics of
    a model with such keys. `keep`: saves the model, called whenever the metrics improve in either stage.
    """

    folder: Path
    encode: Callable[[nn.Module], Tensor]
    rank: Callable[[nn.Module, Tensor], Metrics]
    keep: Callable[[nn.Module], None]
