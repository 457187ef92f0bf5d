"""Recformer's stages: pre-training on pairs of token sequences, and fine-tuning in two stages (arXiv 2305.13731, section 2.5).

    stage 1   item vectors encoded anew after every epoch, fixed within it; the best weights and their vectors are kept
    stage 2   from the best weights on, item vectors fixed at those of stage 1; kept where they are better still

One schedule of the learning rate runs over both stages.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linguarec.batching.loader import TrainingBatch
from linguarec.batching.negatives import StepClasses
from linguarec.errors import CheckpointMismatchError
from linguarec.families.recformer.loaders import HistoryLoader, TokenPairsBatch, TokenPairsLoader
from linguarec.families.recformer.model import Recformer
from linguarec.families.recformer.scorer import ITEM_WEIGHTS_FILE
from linguarec.families.weights import AGAIN, load_weights, save_weights
from linguarec.files import writing_file
from linguarec.nn.gathering import Gathering
from linguarec.stored import read_array
from linguarec.training.callbacks import Metrics
from linguarec.training.fit import MONITOR
from linguarec.training.module import Stage
from linguarec.training.processes import is_main_process
from linguarec.training.settings import TrainingSettings
from linguarec.training.stages import Fit, PlannedStage, StageResult

STAGE_FOLDER, ITEM_KEYS_FILE = "stage1", "keys.npy"
log = logging.getLogger(__name__)


class TokenPreTraining(Stage):
    """`Recformer.pretrain_loss`: contrast within the step, across processes, and masked words.

    Parameters without a gradient are frozen.
    """

    def __init__(self, model: Recformer, loader: TokenPairsLoader, settings: TrainingSettings, seed: int) -> None:
        if loader.masking is None:
            _train_only(model, model.finetuned_parameters())
        super().__init__(model, loader, settings, seed)

    def step_loss(self, batch: TokenPairsBatch) -> Tensor:
        """The model's loss, which knows its share of the step."""
        loss: Tensor = self.model.pretrain_loss(batch.pairs)  # type: ignore[operator]
        return loss


class HistoryTuning(Stage):
    """`Recformer.finetune_loss`: the next item of each history among the vectors of the trained items, or some of them.

    Parameters without a gradient are frozen.

    Args:
        encode: keys [N, D] of all items by a model, where the model is.
        classes: [C] rows of the items that the softmax is over.
        keys: [N, D] of all items; None = to be encoded before the first step.
        steps_before: optimiser steps that the stage before took.
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
        self.drawn = drawn if drawn < len(classes) else 0  # as many as there are, or more: the softmax over all
        self.keys = keys
        self.earlier_steps = steps_before

    def encode(self, model: nn.Module) -> Tensor:
        """Take the item vectors of `model` as keys [N, D], from now on."""
        self.keys = self.encode_items(model)
        return self.keys

    def on_fit_start(self) -> None:
        """Bring what stands here to the device, and encode the items if nobody did."""
        self.classes, self.class_of = self.classes.to(self.device), self.class_of.to(self.device)
        if self.keys is None:
            with self.trainer.precision_plugin.forward_context():
                self.encode(self.result)
        else:
            self.keys = self.keys.to(self.device)

    def step_loss(self, batch: TrainingBatch) -> Tensor:
        """Mean over the histories of this process, times its share of the step."""
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
        """Of both stages."""
        return 2 * super().steps_planned

    @property
    def steps_before(self) -> int:
        """Of the stage before."""
        return self.earlier_steps

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the keys: the weights that made them are past."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["stage"]["keys"] = self.keys

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
        super().on_load_checkpoint(checkpoint)
        self.keys = checkpoint["stage"]["keys"]


def _train_only(model: nn.Module, reached: Iterable[nn.Parameter]) -> None:
    """Freeze all other parameters; those frozen before stay so."""
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
    """The stages of a fine-tuning; `max_epochs` and `patience` hold for each.

    Args:
        model: changed in place; afterwards it holds the last weights.
        classes: [C] rows of the items that the softmax is over.
        loader: makes the training steps.
        settings: of the training.
        seed: of all random draws.
        run: what is validated and kept, and where.
    """
    stage_folder = run.folder / STAGE_FOLDER
    keys_file, item_weights = stage_folder / ITEM_KEYS_FILE, run.folder / ITEM_WEIGHTS_FILE

    def first(before: Sequence[StageResult]) -> Fit:
        stage = HistoryTuning(model, run.encode, classes, loader(), settings, seed)

        def keep(current: nn.Module) -> None:
            save_weights(current, item_weights)
            with writing_file(keys_file) as temporary, temporary.open("wb") as opened:
                assert stage.keys is not None
                np.save(opened, stage.keys.cpu().numpy())
            run.keep(current)

        return Fit(stage, lambda now: run.rank(now, stage.encode(now)), keep)

    def second(before: Sequence[StageResult]) -> Fit:
        so_far = before[0].valid[MONITOR]
        if is_main_process():
            log.info("valid %s so far: %.4f", MONITOR, so_far)
        # Written before the last checkpoint, at which the processes waited for each other.
        keys = torch.from_numpy(read_array(keys_file, CheckpointMismatchError, AGAIN))
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
    """What both stages ask for.

    `folder`: of the run. `encode`: keys [N, D] of all items by a model, where the model is. `rank`: valid metrics of a model
    with such keys. `keep`: called with the model whenever they are better than before in either stage.
    """

    folder: Path
    encode: Callable[[nn.Module], Tensor]
    rank: Callable[[nn.Module, Tensor], Metrics]
    keep: Callable[[nn.Module], None]
