"""The first stage of VQ-Rec's fine-tuning as a training of its own, which is resumed like any other."""

import copy
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.loader import TrainingLoader
from linguarec.errors import CheckpointMismatchError
from linguarec.files import write_json, writing_file
from linguarec.hub.pretrained import AGAIN
from linguarec.models.vqrec import VQRec
from linguarec.models.vqrec_permutation import PermutedVQRec
from linguarec.stored import read_array, read_json
from linguarec.training.callbacks import Metrics
from linguarec.training.fit import MONITOR, fit
from linguarec.training.module import FineTuning
from linguarec.training.settings import PermutationSettings, TrainingSettings

FOLDER, ORDER_FILE, METRICS_FILE = "permutation", "order.npy", "metrics.json"
log = logging.getLogger(__name__)


def learn_permutation(
    model: VQRec,
    items: ItemBatch,
    loader: TrainingLoader,
    training: TrainingSettings,
    settings: PermutationSettings,
    seed: int,
    run: Path,
    validate: Callable[[nn.Module], Metrics],
    resume: bool = False,
) -> tuple[Tensor, dict[str, Any]]:
    """Learn whose embedding each code takes, with all that `model` holds fixed; `model` itself is left as it is.

    `run/permutation/` gets `metrics.csv`, checkpoints until the stage is done, then `order.npy` and `metrics.json`.

    Args:
        model: pre-trained; its code embeddings belong to another code book.
        items: the catalogue of the softmax, with the codes of the new book.
        loader: the training steps.
        training: of the whole fine-tuning; learning rate and number of epochs come from `settings`.
        settings: of this stage.
        seed: of all random draws.
        run: folder of the whole fine-tuning.
        validate: metrics by name; must hold "ndcg@10".
        resume: take up what the folder holds: the result, if the stage was finished, else the last checkpoint.

    Returns:
        The order [M, K] int64 that was best on valid (see `linguarec.nn.permutation`), and what the stage came to: the valid
        ndcg@10 of the embeddings in their old order and in the best one, the epoch of that, and the epochs.
    """
    stage = run / FOLDER
    file = stage / METRICS_FILE
    if resume and file.exists():
        summary = read_json(file, CheckpointMismatchError, AGAIN)
    else:
        learner = PermutedVQRec(copy.deepcopy(model), settings.temperature, settings.rounds)
        start = validate(learner)[MONITOR]
        log.info("stage 1: a permutation of each code book (valid %s without one: %.4f)", MONITOR, start)
        schedule = replace(
            training,
            learning_rate=settings.learning_rate,
            weight_decay=0.0,
            averaging=0.0,
            max_epochs=settings.epochs,
            patience=settings.epochs,
        )
        training_stage = FineTuning(learner, items, loader, schedule, seed)
        result = fit(training_stage, stage, validate, lambda now: _save_order(now, stage), resume)
        summary = {
            f"valid {MONITOR} before": start,
            f"valid {MONITOR}": result.best_valid,
            "best_epoch": result.best_epoch,
            "epochs": result.epochs,
            "seconds": result.seconds,
        }
        if result.main_process:
            write_json(file, summary)
            shutil.rmtree(stage / "checkpoints", ignore_errors=True)
    # Written before the last checkpoint, at which the processes waited for each other.
    return torch.from_numpy(read_array(stage / ORDER_FILE, CheckpointMismatchError, AGAIN)), summary


def _save_order(learner: nn.Module, stage: Path) -> None:
    assert isinstance(learner, PermutedVQRec)
    with writing_file(stage / ORDER_FILE) as temporary, temporary.open("wb") as file:
        np.save(file, learner.permutation.order().cpu().numpy())
