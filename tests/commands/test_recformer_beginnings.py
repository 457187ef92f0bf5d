"""What a Recformer begins as: a language model, another run, random weights; and that its runs need none of these again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import linguarec
from linguarec.cli import main
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.commands.tokenize import tokenize
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.opening import open_model
from linguarec.families.recformer.model import RecformerConfig
from linguarec.files import write_json
from linguarec.seals import unseal
from linguarec.training.settings import TrainingSettings

CONFIG = RecformerConfig(window=16, max_tokens=128, max_items=8, dropout=0.1, attention_dropout=0.0)
SCRATCH = RecformerConfig(
    hidden_size=16, layers=2, heads=2, inner_size=16, window=16, max_tokens=128, max_items=8, positions=128, first_position=0
)  # fmt: skip


def settings(**changes: Any) -> TrainingSettings:
    quick: dict[str, Any] = {
        "learning_rate": 3e-3, "targets_per_step": 100, "max_epochs": 2, "accelerator": "cpu", "warmup_steps": 4,
        "schedule": "linear",
    }  # fmt: skip
    return TrainingSettings(**{**quick, **changes})


@pytest.fixture
def shop(shops: list[PreparedDataset], tiny_backbone: str) -> PreparedDataset:
    """The first shop with its tokens."""
    tokenize(shops[0].path, tiny_backbone, name="tiny")
    return shops[0]


def test_another_run_can_be_the_start(shop: PreparedDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first, second = tmp_path / "first", tmp_path / "second"
    finetune("recformer", shop.path, first, SCRATCH, training=settings(max_epochs=1))
    finetune("recformer", shop.path, second, from_=first, training=settings(max_epochs=1, learning_rate=1e-12))
    before, after = (load_file(run / "model.safetensors") for run in (first, second))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
    # SCRATCH has 16 and 128: as nothing else was asked for, they stay, and that is told.
    kept = "model.window 16, model.max_tokens 128"
    assert f"settings of {first} that are not the defaults are kept: {kept}" in caplog.text
    # A default that is asked for by name is taken, and positions beyond those of the start are its own once more.
    third, rows = tmp_path / "third", before["position.weight"]
    words = ["--model.max_tokens", "1024", "--training.learning_rate", "1e-12", "--training.max_epochs", "1"]
    with pytest.raises(SystemExit, match="0"):
        main(["finetune", "recformer", str(shop.path), "--from", str(first), "-o", str(third), *words])
    config = json.loads((third / "config.json").read_text())["config"]
    assert (config["max_tokens"], config["window"], config["positions"]) == (1024, 16, 1024 + config["first_position"])
    longer = load_file(third / "model.safetensors")["position.weight"]
    body = rows[config["first_position"] :]
    torch.testing.assert_close(longer[len(rows) : len(rows) + 100], body[:100], atol=1e-6, rtol=0)
    assert "are repeated for 1024" in caplog.text
    with pytest.raises(SettingsError, match=r"--model.layers 3: the weights of .* are for 2"):
        finetune("recformer", shop.path, tmp_path / "c", RecformerConfig(layers=3), from_=first, training=settings())
    with pytest.raises(SettingsError, match=r"--model.positions 99: the weights of .* are for 128"):
        finetune(
            "recformer",
            shop.path,
            tmp_path / "c",
            RecformerConfig(max_tokens=90, positions=99),
            from_=first,
            training=settings(),
        )
    words = replace(SCRATCH, vocabulary=99)
    with pytest.raises(SettingsError, match=r"--model\.vocabulary 99: the items are tokenized into"):
        finetune("recformer", shop.path, tmp_path / "c", words, training=settings())


def test_random_weights_by_the_command_line(shop: PreparedDataset, tmp_path: Path) -> None:
    sizes = [
        "--model.hidden_size=16",
        "--model.layers=1",
        "--model.heads=2",
        "--model.inner_size=16",
        "--model.positions=130",
    ]
    words = [
        *sizes,
        "--model.max_tokens=128",
        "--training.max_epochs=1",
        "--training.accumulate=1",
        "--training.valid_users=9",
    ]
    for command, data in (("finetune", shop.path), ("pretrain", shop.path)):
        run = tmp_path / command
        with pytest.raises(SystemExit, match="0"):
            main([command, "recformer", str(data), "-o", str(run), *words])
        description = open_model(run)[1]
        assert (description.config.layers, description.config.language_head) == (1, command == "pretrain")


def test_a_run_reads_new_items_where_its_backbone_is_not(
    shop: PreparedDataset, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, run, pre = tmp_path / "backbone", tmp_path / "run", tmp_path / "pre"
    shutil.copytree(tiny_backbone, backbone)
    monkeypatch.chdir(tmp_path)
    tokenize(shop.path, "backbone", overwrite=True)
    flags: dict[str, Any] = {"tokens": "backbone", "backbone": "backbone", "training": settings(max_epochs=1)}
    finetune("recformer", shop.path, run, CONFIG, **flags)
    pretrain("recformer", [shop.path], pre, CONFIG, **flags)
    settings_file = run / "settings.json"
    recorded = json.loads(settings_file.read_text())
    assert recorded["backbone"] == "../backbone"
    unseal(run)
    write_json(settings_file, recorded | {"backbone": "backbone"})  # as an earlier version wrote it
    finetune("recformer", shop.path, run, CONFIG, resume=True, **flags)
    backbone.rename(tmp_path / "elsewhere")
    for folder in (run, pre):
        recommender = linguarec.load_model(folder)
        recommender.add_items([{"raw_id": "new", "title": shop.texts[4]}])
        recommender.save(tmp_path / "saved")
        grown = linguarec.load_model(tmp_path / "saved")
        assert grown.add_items([{"raw_id": "newer", "title": shop.texts[4]}]) == 1
        np.testing.assert_allclose(grown.item_vectors()[-1], recommender.item_vectors()[-1], atol=1e-4, rtol=1e-5)


def test_backbones_and_folders_that_do_not_fit_are_refused(
    shop: PreparedDataset, shops: list[PreparedDataset], tiny_backbone: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(SettingsError, match=r"--model.layers 3: it comes with the backbone"):
        finetune("recformer", shop.path, run, RecformerConfig(layers=3), backbone=tiny_backbone, training=settings())
    needed = f"has none; make them with `linguarec tokenize {shops[1].path} --backbone {tiny_backbone}`"
    with pytest.raises(SettingsError, match=needed):
        finetune("recformer", shops[1].path, run, CONFIG, backbone=tiny_backbone, training=settings())
    with pytest.raises(SettingsError, match="--backbone: this is not for unisrec"):
        finetune("unisrec", shop.path, run, backbone=tiny_backbone)
    with pytest.raises(CheckpointMismatchError, match="holds no model"):
        finetune("recformer", shop.path, run, from_=tmp_path, training=settings())
    assert not run.exists()
