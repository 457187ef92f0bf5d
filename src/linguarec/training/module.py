"""A training stage as a Lightning module: a model, the loss of the stage, an optimiser."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sized
from typing import Any, Protocol

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from linguarec.batching.batches import ItemBatch
from linguarec.batching.loader import TrainingBatch
from linguarec.batching.pretraining import PretrainingBatch
from linguarec.processes import is_main_process
from linguarec.training.averaging import averaged
from linguarec.training.settings import TrainingSettings

# Methods through which models are called. With FSDP each of them first gathers the full weights.
_CALLED = ("pretrain_loss", "item_inputs", "item_keys", "queries", "encode")

log = logging.getLogger(__name__)


class StepBatch(Protocol):
    """The part of a batch that `Stage` needs: the number of its step, and the step's targets over all processes."""

    @property
    def step(self) -> int:
        """Number of the step, counted from the start of the training."""

    @property
    def step_targets(self) -> int:
        """Number of targets of the step, over all processes."""


class StepLoader(Sized, Protocol):
    """The loader that `Stage` needs: iterates over the steps of an epoch, split over processes, and saves its position."""

    def __iter__(self) -> Iterator[Any]:
        """The remaining batches of an epoch."""

    def shard(self, rank: int, processes: int) -> None:
        """Take this process's part of each step."""

    def state_dict(self) -> dict[str, int]:
        """The position of the next batch."""

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from this position."""


class Stage(LightningModule):
    """Trains a model with `step_loss`, the loss of the stage. Parameters without `requires_grad` are frozen.

    Every step draws its random numbers (dropout, gate noise) from a generator seeded by seed, step and process, so that a
    resumed run equals an uninterrupted one exactly.
    """

    def __init__(self, model: nn.Module, loader: StepLoader, settings: TrainingSettings, seed: int) -> None:
        super().__init__()
        self.model = model
        self.loader = loader
        self.settings = settings
        self.seed = seed
        self.average = averaged(model, settings.averaging) if settings.averaging else None
        self.loss_sum = 0.0
        self.targets = 0
        # In a list, because Lightning would register a module attribute as a part of the model.
        self._without_weights: list[nn.Module] = []

    def configure_model(self) -> None:
        """Shard the weights over the processes, if the strategy is FSDP."""
        if self.settings.strategy != "fsdp" or self._without_weights:
            return
        self._without_weights = [copy.deepcopy(self.model).to("meta")]
        assert self.device_mesh is not None
        fully_shard(self.model, mesh=self.device_mesh["data_parallel"])
        for name in _CALLED:
            if hasattr(self.model, name):
                register_fsdp_forward_method(self.model, name)

    def whole_result(self) -> nn.Module:
        """`result`, with its full weights on the first process; all processes must call this."""
        if not self._without_weights:
            return self.result
        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if not self.trainer.is_global_zero:
            return self.result
        whole = copy.deepcopy(self._without_weights[0])
        whole.load_state_dict(state, assign=True)
        return whole

    def step_loss(self, batch: Any) -> Tensor:
        """This process's share of a step's loss: the mean of the shares over the processes is the mean over all targets."""
        raise NotImplementedError

    @property
    def result(self) -> nn.Module:
        """The network to validate and save: the model, or the model with averaged weights."""
        return self.model if self.average is None else self.average.module

    def train_dataloader(self) -> StepLoader:
        """This process's part of every step."""
        self.loader.shard(self.trainer.global_rank, self.trainer.world_size)
        return self.loader

    def on_train_epoch_start(self) -> None:
        """Reset the sums of the epoch."""
        self.loss_sum, self.targets = 0.0, 0

    def training_step(self, batch: StepBatch, batch_index: int) -> Tensor:
        """This process's share of the step's loss; seeds torch for the step."""
        torch.manual_seed(hash((self.seed, batch.step, self.global_rank)) & 0x7FFFFFFFFFFFFFFF)
        loss = self.step_loss(batch)
        self.loss_sum += float(loss.detach()) * batch.step_targets
        self.targets += batch.step_targets
        return loss

    def whole_loss_sum(self) -> float:
        """The loss summed over the epoch's targets so far, over all processes; all of them must call this."""
        if self.trainer.world_size == 1:
            return self.loss_sum
        mine = torch.tensor(self.loss_sum, dtype=torch.float64, device=self.device)
        return float(self.trainer.strategy.reduce(mine, reduce_op="mean"))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take an optimiser step, then update the averaged weights, before any checkpoint of the step is written."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the loader's position and the sums of the epoch.

        Lightning saves a loader's state too, but restores it only within an epoch. All processes call this, the first writes.
        """
        checkpoint["stage"] = {
            "loader": self.loader.state_dict(),
            "loss_sum": self.whole_loss_sum(),
            "targets": self.targets,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the loader's position and the sums of the epoch, and log where the training goes on."""
        state = checkpoint["stage"]
        self.loader.load_state_dict(state["loader"])
        self.loss_sum, self.targets = state["loss_sum"], state["targets"]
        if not is_main_process():
            return
        epoch, done, parts = checkpoint["epoch"], state["loader"]["next_step"], self.settings.accumulate
        if done >= len(self.loader):
            log.info("goes on after epoch %d", epoch)
        else:
            steps = math.ceil(len(self.loader) / parts)
            log.info("goes on in epoch %d, after step %d of %d", epoch, done // parts, steps)

    @property
    def steps_planned(self) -> int:
        """Total optimiser steps of the learning-rate schedule."""
        return math.ceil(len(self.loader) / self.settings.accumulate) * self.settings.max_epochs

    @property
    def steps_before(self) -> int:
        """Optimiser steps of the learning-rate schedule that earlier stages took."""
        return 0

    def learning_rate_share(self, step: int) -> float:
        """Factor of the learning rate at optimiser step `step` of this stage, counted from 0."""
        settings, now = self.settings, self.steps_before + step
        if now < settings.warmup_steps:
            return (now + 1) / settings.warmup_steps
        if settings.schedule == "constant":
            return 1.0
        return max(0.0, (self.steps_planned - now) / max(1, self.steps_planned - settings.warmup_steps))

    def adam(self) -> Callable[..., torch.optim.Optimizer]:
        """The class of the optimiser."""
        return torch.optim.AdamW if self.settings.weight_decay else torch.optim.Adam

    def configure_optimizers(self) -> Any:
        """Adam as published; AdamW if weight decay is above 0."""
        optimizer = self.adam()(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=not self.settings.gradient_clip,  # Lightning does not clip gradients for fused optimisers
        )
        if not self.settings.warmup_steps and self.settings.schedule == "constant":
            return optimizer
        if (planned := self.steps_planned) < self.settings.warmup_steps:
            log.warning(
                "the learning rate rises over the first %d steps, and %d are planned: it ends at %.0f %% of "
                "--training.learning_rate. Fewer --training.warmup_steps, or more epochs, reach it.",
                self.settings.warmup_steps,
                planned,
                100 * planned / self.settings.warmup_steps,
            )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class FineTuning(Stage):
    """`model.finetune_loss` over a catalogue: the cross-entropy of the next item among `items`."""

    def __init__(
        self, model: nn.Module, items: ItemBatch, loader: StepLoader, settings: TrainingSettings, seed: int
    ) -> None:
        super().__init__(model, loader, settings, seed)
        self.items = items

    def on_fit_start(self) -> None:
        """Move the catalogue to the device once."""
        self.items = self.items.to(self.device)

    def step_loss(self, batch: TrainingBatch) -> Tensor:
        """Mean over the targets of this process, times the step's `loss_scale`."""
        mean: Tensor = self.model.finetune_loss(batch.sequences, self.items)  # type: ignore[operator]
        return mean * batch.loss_scale


class PreTraining(Stage):
    """`model.pretrain_loss` over several domains: contrast among the targets of the step, over all processes."""

    def step_loss(self, batch: PretrainingBatch) -> Tensor:
        """The model's loss, which is already scaled to this process's share of the step."""
        loss: Tensor = self.model.pretrain_loss(batch)  # type: ignore[operator]
        return loss
