"""Runs one training stage with Lightning: precision, devices, checkpoints, early stopping, resuming."""

import logging
import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from linguarec.devices import multiplies_bf16
from linguarec.errors import CheckpointMismatchError, SettingsError, listed
from linguarec.regular import check_regular
from linguarec.training.callbacks import (
    BestWeights,
    EpochCheckpoint,
    EpochRecord,
    LastWeights,
    Patience,
    StepCheckpoint,
    StepProgress,
)
from linguarec.training.module import Stage
from linguarec.training.record import CURVE_FILE, MONITOR, Metrics
from linguarec.training.settings import TrainingSettings
from linguarec.training.stages import CHECKPOINTS
from linguarec.unpickling import UNREADABLE


@dataclass(frozen=True)
class FitResult:
    """The result of a stage: the best valid metric, its epoch, the number of epochs, and one record for each epoch.

    Without validation both are -1.

    `main_process`: whether this is the one process that writes results.
    """

    best_valid: float
    best_epoch: int
    epochs: int
    history: list[dict[str, Any]]
    main_process: bool

    @property
    def seconds(self) -> float:
        """Seconds of all epochs with their validations, also those before the training was resumed."""
        return float(sum(row["seconds"] + row["valid_seconds"] for row in self.history))


def fit(
    stage: Stage,
    run: Path,
    validate: Callable[[nn.Module], Metrics] | None,
    save_best: Callable[[nn.Module], None],
    resume: bool = False,
    best_before: float = -1.0,
) -> FitResult:
    """Train until the valid ndcg@10 has not risen for `patience` epochs.

    Args:
        stage: model, loader, loss and settings. Its model is changed in place; afterwards it holds the *last* weights.
            `save_best` wrote the best ones.
        run: folder for `metrics.csv`, `checkpoints/` and logs.
        validate: metrics by name; must hold "ndcg@10". None = no validation: all epochs are trained.
        save_best: called with the model whenever the metric is better than before; without validation after every epoch.
        resume: continue from `run/checkpoints/last.ckpt` if it exists.
        best_before: the best metric of an earlier stage, whose weights are kept until this stage exceeds it; `best_epoch` is
            -1 if it never does.

    Raises:
        CheckpointMismatchError: that file is not a checkpoint of this stage, or names code.
    """
    settings = stage.settings
    record = EpochRecord(validate, run / CURVE_FILE)
    best = BestWeights(f"valid/{MONITOR}", save_best, best_before)
    checkpoint = run / CHECKPOINTS / "last.ckpt"
    if resume and checkpoint.exists():
        _check_checkpoint(checkpoint, stage)
    every_n_steps = settings.checkpoint_every_n_steps
    patience = Patience(f"valid/{MONITOR}", mode="max", patience=settings.patience, check_on_train_epoch_end=True)
    callbacks = [
        StepProgress(),
        record,
        *([LastWeights(save_best)] if validate is None else [best, patience]),
        EpochCheckpoint(checkpoint.parent, filename="last", enable_version_counter=False, save_on_train_epoch_end=True),
    ]
    if every_n_steps:
        # Overwrites the same file between epochs, so that a killed run loses at most this many steps.
        callbacks.append(
            StepCheckpoint(
                checkpoint.parent, filename="last", enable_version_counter=False, every_n_train_steps=every_n_steps
            )
        )
    with _quiet():
        trainer = Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=_num_nodes(),
            strategy=_strategy(settings),
            precision="bf16-mixed" if uses_bf16(settings) else "32-true",
            max_epochs=settings.max_epochs,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.gradient_clip or None,
            callbacks=callbacks,
            logger=_loggers(settings, run),
            log_every_n_steps=10,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=run,
        )
        trainer.fit(
            stage,
            ckpt_path=str(checkpoint) if resume and checkpoint.exists() else None,
            weights_only=True,
        )
    return FitResult(best.best, best.best_epoch, len(record.rows), record.rows, trainer.is_global_zero)


def _num_nodes() -> int:
    return int(os.environ.get("GROUP_WORLD_SIZE", 1))  # set by torchrun


def _strategy(settings: TrainingSettings) -> Any:
    """Lightning's strategy; FSDP is its `ModelParallelStrategy` without tensor parallelism, which also runs on CPUs."""
    if settings.strategy != "fsdp":
        return settings.strategy
    return ModelParallelStrategy(
        data_parallel_size=settings.devices * _num_nodes(), tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def uses_bf16(settings: TrainingSettings) -> bool:
    """Whether matrix products run in bfloat16: as set, or with "auto" if the device supports it natively."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    return multiplies_bf16("cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _check_checkpoint(file: Path, stage: Stage) -> None:
    """Refuse a file that is not a checkpoint of this stage, before Lightning reads it; tensors are not read.

    The file may come from elsewhere, and a pickle is a program: only tensors and plain values are built, by torch's
    `weights_only`, and no code that the file names is run.
    """
    check_regular(file, CheckpointMismatchError)
    found, foreign, reason = None, [], None
    if zipfile.is_zipfile(file):
        try:
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file)
            if not foreign:
                found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except UNREADABLE as error:
            reason = error
    if foreign:
        raise CheckpointMismatchError(
            f"{file} is refused: beside tensors and plain values it names {listed(foreign)}, which could run commands on this "
            "machine. Nothing was run. Delete it to train from the start."
        )
    if not isinstance(found, dict) or not {"stage", "state_dict", "loops"} <= found.keys():
        raise CheckpointMismatchError(
            f"{file} is cut short, or not a checkpoint of a training; put it back, or delete it to train from the start."
        ) from reason
    weights = found["state_dict"] if isinstance(found["state_dict"], dict) else {}
    shapes = {name: getattr(value, "shape", None) for name, value in weights.items()}
    expected = {name: tensor.shape for name, tensor in stage.state_dict().items()}
    if shapes != expected:
        differ = [name for name in {**expected, **shapes} if shapes.get(name) != expected.get(name)]
        raise CheckpointMismatchError(
            f"{file} does not fit the model: {listed(differ)} are missing, unexpected or of another shape; put the "
            "checkpoint of this training back, or delete it to train from the start."
        )


def _loggers(settings: TrainingSettings, run: Path) -> Any:
    from lightning.pytorch import loggers

    made: list[Any] = []
    for name in settings.loggers:
        try:
            if name == "tensorboard":
                made.append(loggers.TensorBoardLogger(run, name="logs", version="tensorboard"))
            elif name == "wandb":
                made.append(loggers.WandbLogger(save_dir=run, project="linguarec", name=run.name))
            else:
                # Without a tracking server, use a database in the run folder: MLflow no longer writes plain files.
                store = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(run / 'mlflow.db').resolve()}")
                made.append(loggers.MLFlowLogger("linguarec", run_name=run.name, tracking_uri=store))
        except ModuleNotFoundError as error:
            raise SettingsError(
                [f"training.loggers names {name!r}, which is not installed: pip install 'linguarec[{name}]'"]
            ) from error
    return made or False


class _quiet(warnings.catch_warnings):
    """Hides Lightning's start-up messages and its advice on data loader workers."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
