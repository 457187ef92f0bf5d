"""Callbacks of a training: progress, valid metrics, the record of the epochs, early stopping, checkpoints, best weights."""

import csv
import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from linguarec.files import writing_file
from linguarec.memory import peak_memory_gib
from linguarec.progress import Advance, progress_bar
from linguarec.training.module import Stage
from linguarec.training.record import Metrics, before_valid

log = logging.getLogger(__name__)


def _is_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the batch was the last part of an optimiser step."""
    return trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class EpochRecord(Callback):
    """After each epoch: compute the valid metrics, log them, and write all epochs so far to `metrics.csv`.

    Loss and targets are summed over all processes; seconds and memory are those of the first process.
    Histories are encoded in the precision of the training; scores are float32, as everywhere.

    Args:
        validate: metrics of the model on the valid part; run by every process on the same model. None = no validation.
        file: the CSV file; one row per epoch.
    """

    def __init__(self, validate: Callable[[nn.Module], Metrics] | None, file: Path) -> None:
        self.validate = validate
        self.file = file
        self.rows: list[dict[str, Any]] = []
        self.started = self.elapsed = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock; an epoch that is resumed in the middle calls no `on_train_epoch_start`."""
        self.started = time.perf_counter() - self.elapsed

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Validate and record."""
        assert isinstance(module, Stage)
        trained = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            metrics = {} if self.validate is None else self.validate(module.result)
        seconds, valid_seconds = trained - self.started, time.perf_counter() - trained
        for name, value in metrics.items():
            module.log(f"valid/{name}", value, batch_size=1, rank_zero_only=False)
        loss = module.whole_loss_sum() / max(module.targets, 1)
        module.log("train/loss", loss, batch_size=1)
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "loss": loss,
                **{f"valid {name}": value for name, value in metrics.items()},
                "seconds": seconds,
                "valid_seconds": valid_seconds,
                "targets_per_second": module.targets / seconds,
                "peak_memory_gib": peak_memory_gib(),
            }
        )
        if trainer.is_global_zero:
            self._write()
            part = before_valid(module.settings.exclude_history)
            shown = (
                f"  {part} " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()) if metrics else ""
            )
            log.info("epoch %d  loss %.4f%s  %.1f s", trainer.current_epoch, loss, shown, seconds + valid_seconds)

    def _write(self) -> None:
        with writing_file(self.file) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and the seconds of the current epoch."""
        return {"rows": list(self.rows), "elapsed": time.perf_counter() - self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of a resumed run."""
        self.rows, self.elapsed = list(state_dict["rows"]), state_dict.get("elapsed", 0.0)


class StepProgress(Callback):
    """A progress bar over the optimiser steps of each epoch, whatever the parts of a step, on the main process."""

    def __init__(self) -> None:
        self.open = ExitStack()
        self.advance: Advance | None = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw the bar before the first step of an epoch, or of its resumed part, so that its rate includes that step."""
        if self.advance is None and trainer.is_global_zero:
            parts = trainer.accumulate_grad_batches
            total = math.ceil(trainer.num_training_batches / parts)
            self.advance = self.open.enter_context(progress_bar(f"epoch {trainer.current_epoch}", total, "steps"))
            self.advance(batch_idx // parts)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar after the last part of a step; the last step of an epoch may have fewer parts."""
        if self.advance is not None and _is_step(trainer, batch_idx):
            self.advance()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Close the bar before the epoch's line is logged."""
        self.open.close()
        self.advance = None

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Close the bar before the error is printed."""
        self.open.close()


class Patience(EarlyStopping):
    """Early stopping that also ends a resumed run whose patience had run out before it was killed."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop if the checkpoint says that patience had run out; Lightning does not restore this decision."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class EpochCheckpoint(ModelCheckpoint):
    """A checkpoint at the end of each epoch, over the same file.

    It saves no state of its own: Lightning's holds paths, which are those of another machine in a run that was moved, and
    deletes the file at one of them after the next checkpoint.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the paths in a checkpoint of linguarec 0.2."""


class StepCheckpoint(EpochCheckpoint):
    """Checkpoints between the optimiser steps of an epoch, except after its last step, where the epoch's checkpoint follows.

    Resumed after the last step, Lightning would begin the next epoch and never validate this one. A checkpoint within an
    accumulated step would lose the gradients of the earlier parts.
    """

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between optimiser steps, if a checkpoint is due."""
        if _is_step(trainer, batch_idx) and not trainer.is_last_batch:
            super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)


class BestWeights(Callback):
    """Keeps the weights of the epoch with the highest `monitor`.

    Args:
        monitor: name of a logged metric; higher is better.
        save: writes the model into the run folder.
        best: value that must be exceeded.
    """

    def __init__(self, monitor: str, save: Callable[[nn.Module], None], best: float = -1.0) -> None:
        self.monitor = monitor
        self.save = save
        self.best = best
        self.best_epoch = -1

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the weights if the metric is better."""
        assert isinstance(module, Stage)
        # The value of the first process, so that all processes agree on whether to gather the weights.
        value = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        if value > self.best:
            self.best, self.best_epoch = value, trainer.current_epoch
            whole = module.whole_result()
            if trainer.is_global_zero:
                self.save(whole)

    def state_dict(self) -> dict[str, Any]:
        """Best value so far and its epoch."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value and epoch of a resumed run."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]


class LastWeights(Callback):
    """Keeps the weights of the last epoch, for a stage that is not validated; `save` writes the model."""

    def __init__(self, save: Callable[[nn.Module], None]) -> None:
        self.save = save

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the weights, before the checkpoint of the epoch."""
        assert isinstance(module, Stage)
        whole = module.whole_result()
        if trainer.is_global_zero:
            self.save(whole)
