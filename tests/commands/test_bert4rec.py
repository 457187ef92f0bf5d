"""Fine-tuning on masked items, by the command: resuming, several processes, its own settings, and what is refused."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import linguarec
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.families.bert4rec.model import BERT4RecConfig
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=8)
TRAINING = TrainingSettings(
    learning_rate=5e-3, targets_per_step=100, max_epochs=3, accelerator="cpu", checkpoint_every_n_steps=1
)


def steps_of(run: Path) -> int:
    """Optimiser steps of a finished training."""
    with (run / "metrics.csv").open() as file:
        return int(list(csv.DictReader(file))[-1]["step"])


@pytest.mark.parametrize("step", [2, 5])
def test_killed_at_any_step_it_goes_on_to_the_same_weights(
    step: int, shops: list[PreparedDataset], tmp_path: Path, until_killed: Callable[..., None]
) -> None:
    """Epochs have 3 steps; which places are hidden is drawn again as it was."""
    unbroken, broken, data = tmp_path / "unbroken", tmp_path / "broken", shops[0].path
    finetune("bert4rec", data, unbroken, transformer=SMALL, training=TRAINING)
    assert steps_of(unbroken) == 9
    words = ("finetune", "bert4rec", data, "-o", broken)
    until_killed(*words, where=f"batch.step == {step}", transformer=SMALL, training=TRAINING)
    finetune("bert4rec", data, broken, transformer=SMALL, training=TRAINING, resume=True)
    expected, found = (load_file(run / "model.safetensors") for run in (unbroken, broken))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_shares_of_hidden_places_are_settings_of_the_model(shops: list[PreparedDataset], tmp_path: Path) -> None:
    for share in (0.2, 0.6):
        config = BERT4RecConfig(share, 0)
        finetune("bert4rec", shops[0].path, tmp_path / str(share), config, TRAINING, transformer=SMALL)
    assert steps_of(tmp_path / "0.6") > 2 * steps_of(tmp_path / "0.2")


def test_what_it_cannot_do_is_refused(shops: list[PreparedDataset], tmp_path: Path) -> None:
    data, run = shops[0].path, tmp_path / "run"
    with pytest.raises(SettingsError, match="--sequence-encoder: this is not for bert4rec; leave it out"):
        finetune("bert4rec", data, run, sequence_encoder="gru")
    with pytest.raises(SettingsError, match="max_length is 1; with a place hidden, it must be at least 2"):
        finetune("bert4rec", data, run, transformer=TransformerConfig(16, 1, 2, 16, max_length=1))
    assert not run.exists()
    finetune("bert4rec", data, run, transformer=SMALL, training=TRAINING)
    with pytest.raises(SettingsError, match="bert4rec knows items by ID only"):
        finetune("bert4rec", data, tmp_path / "second", from_=run)
    with pytest.raises(SettingsError, match="bert4rec"):
        evaluate(run, shops[1].path, zero_shot=True)
    recommender: Any = linguarec.load_model(run)
    with pytest.raises(SettingsError, match="bert4rec"):
        recommender.add_items([{"raw_id": "new", "text": "a new thing"}])
