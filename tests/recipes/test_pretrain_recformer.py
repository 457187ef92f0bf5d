"""Pre-training of a Recformer by the command's recipe: what it learns, what its folder holds, resuming, what is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import linguarec
from linguarec.cli import main
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import LinguarecError, SettingsError, StaleFeaturesError
from linguarec.hub.backbone import recformer_from_backbone
from linguarec.hub.pretrained import from_pretrained
from linguarec.models.recformer import RecformerConfig
from linguarec.recipes.evaluate import evaluate
from linguarec.recipes.finetune import finetune
from linguarec.recipes.pretrain import pretrain
from linguarec.recipes.tokenize import tokenize
from linguarec.training.settings import TrainingSettings

CONFIG = RecformerConfig(window=16, max_tokens=128, max_items=8, attention_dropout=0.0)


def settings(**changes: Any) -> TrainingSettings:
    quick: dict[str, Any] = {"learning_rate": 2e-3, "targets_per_step": 60, "max_epochs": 3, "accelerator": "cpu"}
    return TrainingSettings(**{**quick, **changes})


def test_a_folder_without_catalogue_that_reads_any_shop(
    tokenized: list[PreparedDataset], tiny_backbone: str, tmp_path: Path
) -> None:
    run, (home, other) = tmp_path / "run", tokenized
    result = pretrain(
        "recformer", [home.path], run, CONFIG, training=settings(), valid=other.path, backbone=tiny_backbone
    )
    assert json.loads((run / "metrics.json").read_text()) == result
    assert result["domains"] == {"kitchen": 300}
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert result["valid"]["contrast accuracy"] > 0
    model, description = from_pretrained(run)
    assert (description.encoder, description.shape.num_items) == (None, 0)
    begin = recformer_from_backbone(tiny_backbone, 16, 128, 8, language_head=True)
    assert torch.equal(model.word.weight, begin.word.weight)  # type: ignore[union-attr]
    assert not torch.equal(model.position.weight, begin.position.weight)  # type: ignore[union-attr]

    summary = evaluate(run, other.path, zero_shot=True, split="valid", plots=False)
    reached = summary["systems"]["recformer"]["ndcg@10"]["mean"]
    assert reached == pytest.approx(result["valid"]["ndcg@10"], rel=0.1)  # trained in bfloat16 where the device has it
    recommender = linguarec.load_model(run)
    titles = other.texts
    recommender.add_items([{"raw_id": f"{row}", "title": title} for row, title in enumerate(titles)])
    assert len(recommender.recommend([["3", "5"]], k=4)[0]) == 4

    again = tmp_path / "again"
    with pytest.raises(SystemExit, match="0"):
        main(["pretrain", "recformer", str(home.path), "-o", str(again), "--config", str(run / "run.yaml")])
    written = [json.loads((folder / "settings.json").read_text()) for folder in (run, again)]
    assert written[0] == written[1]

    tuned = finetune("recformer", other.path, tmp_path / "tuned", from_=run, training=settings(max_epochs=1))
    taken = json.loads((tmp_path / "tuned" / "settings.json").read_text())["from"]
    assert {name.split(".")[0] for name in taken["left_out"]} == {"language_head"}
    assert taken["new"] == []
    assert tuned["epochs"] == 2


def test_killed_in_an_epoch_it_goes_on_to_the_same_weights(
    tokenized: list[PreparedDataset], tmp_path: Path, until_killed: Callable[..., None]
) -> None:
    config = RecformerConfig(
        hidden_size=16, layers=2, heads=2, inner_size=16, window=16, max_tokens=128, max_items=8, positions=128,
        first_position=0,
    )  # fmt: skip
    training, data = settings(max_epochs=2, checkpoint_every_n_steps=1), tokenized[0].path
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    pretrain("recformer", [data], unbroken, config, training=training)
    words = ("pretrain", "recformer", data, "-o", broken)
    until_killed(*words, where="batch.step == 7", model=config, training=training)
    pretrain("recformer", [data], broken, config, training=training, resume=True)
    expected, found = (load_file(run / "model.safetensors") for run in (unbroken, broken))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_cannot_work_is_refused(tokenized: list[PreparedDataset], tmp_path: Path) -> None:
    run, folders = tmp_path / "run", [shop.path for shop in tokenized]
    with pytest.raises(SettingsError, match="--features: this is not for recformer"):
        pretrain("recformer", folders, run, CONFIG, features="words")
    with pytest.raises(SettingsError, match="--backbone: this is not for unisrec"):
        pretrain("unisrec", folders, run, backbone="all-MiniLM-L6-v2")
    tokenize(folders[1], "all-MiniLM-L6-v2", name="other")
    with pytest.raises(LinguarecError, match=r"--tokens other: .* it has: tiny"):
        pretrain("recformer", folders, run, CONFIG, tokens="other")
    (folders[1] / "tokens" / "tiny").rename(folders[1] / "tokens" / "hidden")
    (folders[1] / "tokens" / "other").rename(folders[1] / "tokens" / "tiny")
    with pytest.raises(StaleFeaturesError, match=r"tiny by that of all-MiniLM-L6-v2\. Make them: `linguarec tokenize"):
        pretrain("recformer", folders, run, CONFIG, tokens="tiny")
    assert not run.exists()
