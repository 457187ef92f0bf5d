"""Settings of a training, all checked at once."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from linguarec.checks import LARGEST, MOST
from linguarec.errors import SettingsError
from linguarec.given import given
from linguarec.ranges import tuned

MOST_LEARNING_RATE = 1_000.0
Logger = Literal["tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. The defaults are the published recipe unless a model brings its own.

    Args:
        learning_rate: of Adam.
        weight_decay: decoupled (AdamW) where above 0.
        targets_per_step: next-item targets of one optimiser step over all processes and accumulated parts.
        accumulate: number of parts in which a step is computed, to save memory. The contrast of pre-training takes its
            negatives from one part, so there the same step has fewer of them.
        max_epochs: most epochs of the training.
        patience: the training ends after this many epochs without a better valid ndcg@10.
        stop_by: protocol of the valid metrics, which stop the training and choose the weights. kept = the items of the
            history are candidates, as published; excluded = they are not, as `recommend` works by default.
        valid_users: most users to rank after an epoch, drawn by the seed; 0 = all. In pre-training the most targets of
            each domain, with one draw for all seeds; 0 = 2,048. For models whose validation takes as long as their training.
        window_stride: how histories beyond the model's max_length are trained. 0 = each target with its own window (exact);
            n = windows end every n items (faster).
        averaging: 0 = validate and keep the weights of the last step; above 0 = the mean of the weights over all steps, in
            which step t counts as t^averaging.
        warmup_steps: number of first steps over which the learning rate rises linearly.
        schedule: linear = the learning rate falls to 0 at the end of max_epochs.
        gradient_clip: largest norm of the gradient; 0 = not clipped.
        precision: bf16 = bfloat16 matrix products with float32 weights; auto = bf16 if the device supports it natively.
        accelerator: auto takes a GPU if there is one.
        devices: number of processes on this machine, one per device; with torchrun its --nproc-per-node.
        strategy: how several processes train together. ddp = each holds the whole model; fsdp = each keeps a shard of the
            weights, their gradients and Adam's moments between steps (pre-training only).
        checkpoint_every_n_steps: besides the checkpoint after each epoch; 0 = none.
        loggers: besides metrics.csv; each needs its extra, for instance linguarec[tensorboard].
    """

    learning_rate: float = tuned(1e-3, low=1e-4, high=1e-2, log=True)
    weight_decay: float = tuned(0.0, choices=(0.0, 1e-4, 1e-3, 1e-2, 1e-1))
    targets_per_step: int = 2048
    accumulate: int = 1
    max_epochs: int = 300
    patience: int = 10
    stop_by: Literal["kept", "excluded"] = "kept"
    valid_users: int = 0
    window_stride: int = 0
    averaging: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["constant", "linear"] = "constant"
    gradient_clip: float = 0.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    checkpoint_every_n_steps: int = 0
    loggers: list[Logger] = field(default_factory=list)

    def or_else(self, own: Mapping[str, Any]) -> "TrainingSettings":
        """These settings, with a model's `own` values for those that the user did not set (see `linguarec.given`)."""
        asked = given(self)
        return replace(self, **{name: value for name, value in own.items() if name not in asked})

    @property
    def exclude_history(self) -> bool:
        """Whether the items of the history are no candidates in the valid metrics."""
        return self.stop_by == "excluded"

    def check(self) -> None:
        """Raise one error that names every invalid setting."""
        problems = []
        if not 0 < self.learning_rate <= MOST_LEARNING_RATE:
            problems.append(
                f"training.learning_rate is {self.learning_rate}; it must be above 0, and at most {MOST_LEARNING_RATE}"
            )
        if not 0 <= self.weight_decay < 1:
            problems.append(f"training.weight_decay is {self.weight_decay}; it must be in [0, 1)")
        for name in ("averaging", "gradient_clip"):
            if not 0 <= getattr(self, name) < math.inf:
                problems.append(f"training.{name} is {getattr(self, name)}; it must be 0 (off) or above, and finite")
        for name in ("targets_per_step", "accumulate", "max_epochs", "patience", "devices"):
            if getattr(self, name) < 1:
                problems.append(f"training.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("valid_users", "window_stride", "warmup_steps", "checkpoint_every_n_steps"):
            if getattr(self, name) < 0:
                problems.append(f"training.{name} is {getattr(self, name)}; it must be 0 (off) or above")
        if self.stop_by not in ("kept", "excluded"):
            problems.append(f"training.stop_by is {self.stop_by!r}; it must be kept or excluded")
        whole = [each.name for each in fields(self) if isinstance(getattr(self, each.name), int)]
        for name in whole:
            if getattr(self, name) > (most := MOST.get(name, LARGEST)):
                problems.append(f"training.{name} is {getattr(self, name)}; it must be at most {most:,}")
        if self.strategy == "fsdp" and self.devices < 2:
            problems.append("training.strategy is fsdp, which shares a model out; it needs training.devices 2 or more")
        if self.strategy == "fsdp" and self.averaging:
            problems.append(
                "training.strategy is fsdp, which keeps no mean of the weights; leave training.averaging at 0"
            )
        if self.accelerator == "gpu":
            import torch

            if torch.cuda.device_count() < self.devices:
                problems.append(
                    f"training.accelerator is gpu and training.devices {self.devices}, and torch finds "
                    f"{torch.cuda.device_count()} GPUs here; ask for no more, or take cpu"
                )
        started = os.environ.get("LOCAL_WORLD_SIZE")  # set by torchrun
        if started is not None and int(started) != self.devices:
            # Each process would train alone, all of them into one run folder.
            problems.append(
                f"training.devices is {self.devices}, and torchrun started {started} processes on this machine; give "
                f"--training.devices {started}"
            )
        if problems:
            raise SettingsError(problems)
