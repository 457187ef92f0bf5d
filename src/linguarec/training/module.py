"""Fine-tuning as a Lightning module: a model, the catalogue, an optimiser, nothing else."""

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.loader import TrainingBatch, TrainingLoader
from linguarec.training.averaging import averaged
from linguarec.training.settings import TrainingSettings


class FineTuning(LightningModule):
    """Trains `model.finetune_loss` over the whole catalogue.

    Every step draws its random numbers (dropout, gate noise) from a generator seeded by seed, step and process, so that a
    resumed run repeats an unbroken one exactly.
    """

    def __init__(
        self, model: nn.Module, items: ItemBatch, loader: TrainingLoader, settings: TrainingSettings, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.items = items
        self.loader = loader
        self.settings = settings
        self.seed = seed
        self.average = averaged(model, settings.averaging) if settings.averaging else None
        self.loss_sum = 0.0
        self.targets = 0

    @property
    def result(self) -> nn.Module:
        """What is validated and kept: the model, or the mean of its weights."""
        return self.model if self.average is None else self.average.module

    def on_fit_start(self) -> None:
        """Bring the catalogue to the device once."""
        self.items = self.items.to(self.device)

    def train_dataloader(self) -> TrainingLoader:
        """This process's part of every step."""
        self.loader.shard(self.trainer.global_rank, self.trainer.world_size)
        return self.loader

    def on_train_epoch_start(self) -> None:
        """Start the means of the epoch."""
        self.loss_sum, self.targets = 0.0, 0

    def training_step(self, batch: TrainingBatch, batch_index: int) -> Tensor:
        """Mean cross-entropy of this process's share of the step."""
        torch.manual_seed(hash((self.seed, batch.step, self.global_rank)) & 0x7FFFFFFFFFFFFFFF)
        loss: Tensor = self.model.finetune_loss(batch.sequences, self.items) * batch.loss_scale  # type: ignore[operator]
        count = int((batch.sequences.targets >= 0).sum())
        if count:
            self.loss_sum += float(loss.detach()) / batch.loss_scale * count
            self.targets += count
        return loss

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One step, then the mean over the steps: before any checkpoint of the step is written."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where the steps stand. Lightning keeps a loader's state too, but restores it within an epoch only."""
        checkpoint["fine_tuning"] = {
            "loader": self.loader.state_dict(),
            "loss_sum": self.loss_sum,
            "targets": self.targets,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        state = checkpoint["fine_tuning"]
        self.loader.load_state_dict(state["loader"])
        self.loss_sum, self.targets = state["loss_sum"], state["targets"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam as published; AdamW where weight decay is asked for."""
        kind: Any = torch.optim.AdamW if self.settings.weight_decay else torch.optim.Adam
        optimizer: torch.optim.Optimizer = kind(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        return optimizer
