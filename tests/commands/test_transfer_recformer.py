"""The transfer report of a Recformer: what each way begins with, what is refused."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from linguarec.cli import main
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.commands.transfer import transfer
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.families.opening import read_description
from linguarec.families.recformer.model import RecformerConfig
from linguarec.files import write_json
from linguarec.runs.settings import read_settings
from linguarec.seals import unseal
from linguarec.training.settings import TrainingSettings

CONFIG = RecformerConfig(window=16, max_tokens=128, max_items=8, attention_dropout=0.0)
SIZES = RecformerConfig(
    hidden_size=16, layers=2, heads=2, inner_size=16, window=16, max_tokens=128, max_items=8, positions=128, first_position=0
)  # fmt: skip


def settings(**changes: Any) -> TrainingSettings:
    quick: dict[str, Any] = {"learning_rate": 2e-3, "targets_per_step": 60, "max_epochs": 1, "accelerator": "cpu"}
    return TrainingSettings(**{**quick, **changes})


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("from_backbone", [True, False])
def test_scratch_begins_as_the_pre_training_did(
    from_backbone: bool, tokenized: list[PreparedDataset], tiny_backbone: str, tmp_path: Path
) -> None:
    (home, other), pre, output = tokenized, tmp_path / "pre", tmp_path / "report"
    backbone = tiny_backbone if from_backbone else None
    pretrain("recformer", [home.path], pre, CONFIG if from_backbone else SIZES, training=settings(), backbone=backbone)
    found = transfer(other.path, pre, output, shares=[20, 100], seeds=1, training=settings(accumulate=2))
    assert read(output / "transfer.json")["systems"] == json.loads(json.dumps(found["systems"]))
    assert set(found["systems"][100]) == {"scratch", "full", "zero-shot"}
    pretrained = asdict(read_description(pre).config)
    for share, per_step in ((20, 12), (100, 60)):
        for way in ("scratch", "full"):
            run = output / "runs" / way / str(share) / "seed0"
            written = read_settings(run)
            assert written["config"] == {**pretrained, "language_head": False}
            assert (written["users"], written["training"]["targets_per_step"]) == (share / 100, per_step)
            assert written["training"]["warmup_steps"] == 100  # Recformer's own, as no other was given
            started = written["backbone"] if way == "scratch" else written["from"]["backbone"]
            assert started == backbone
            assert (written["from"] is None) == (way == "scratch")
            values = found["systems"][share][way]["ndcg@10"]["seeds"]
            assert values == pytest.approx([read(run / "metrics.json")["test"]["ndcg@10"]], abs=1e-6)
    # With 5 % of the users a step has 4 histories, one in each part.
    one_each = settings(targets_per_step=20, accumulate=4)
    few = transfer(other.path, pre, tmp_path / "few", ways=["full"], shares=[5], seeds=1, training=one_each)
    assert (
        read(tmp_path / "few" / "runs" / "full" / "5" / "seed0" / "settings.json")["training"]["targets_per_step"] == 4
    )
    assert 0 < few["systems"][5]["full"]["ndcg@10"]["median"] < 1
    untrained = evaluate(pre, other.path, zero_shot=True, plots=False)["systems"]["recformer"]["ndcg@10"]["mean"]
    assert found["systems"][20]["zero-shot"]["ndcg@10"]["median"] == pytest.approx(untrained)
    assert set(found["verdicts"][100]) == {"full", "zero-shot"}


def test_what_a_start_does_not_have_is_refused_before_anything_is_trained(
    tokenized: list[PreparedDataset], tiny_backbone: str, tmp_path: Path
) -> None:
    (home, other), run, output = tokenized, tmp_path / "run", tmp_path / "report"
    finetune("recformer", home.path, run, CONFIG, backbone=tiny_backbone, training=settings())
    with pytest.raises(
        SettingsError,
        match=r"--ways frozen: the recformer in .* has no such way; .* --ways scratch,full,zero-shot",
    ):
        transfer(other.path, run, output, ways=["scratch", "frozen"])
    with pytest.raises(SettingsError, match="--mode: this is not for recformer"):
        transfer(other.path, run, output, mode="inductive")
    with pytest.raises(SettingsError, match=r"--tokens none: .* it has: tiny"):
        transfer(other.path, run, output, tokens="none")
    written = read(run / "settings.json")
    unseal(run)
    write_json(run / "settings.json", {key: value for key, value in written.items() if key != "backbone"})
    with pytest.raises(SettingsError, match=r"names no backbone, as after a conversion\. .* --ways full,zero-shot"):
        transfer(other.path, run, output)
    assert not output.exists()
    (run / "sentences.json").unlink()  # what the error names works after a conversion, too
    found = transfer(other.path, run, output, ways=["full", "zero-shot"], shares=[100], seeds=1, training=settings())
    assert set(found["systems"][100]) == {"full", "zero-shot"}


def test_the_command_trains_with_the_settings_of_the_model(
    tokenized: list[PreparedDataset], tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home, other), pre, output = tokenized, tmp_path / "pre", tmp_path / "report"
    pretrain("recformer", [home.path], pre, CONFIG, training=settings(), backbone=tiny_backbone)
    words = ["transfer", str(other.path), "--from", str(pre), "-o", str(output), "--ways", "full", "--shares", "100"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--seeds", "1", "--training.max_epochs", "1", "--training.accelerator", "cpu", "--json"])
    assert stopped.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found["systems"]["100"]) == ["full"]
    training = read(output / "runs" / "full" / "100" / "seed0" / "settings.json")["training"]
    used = {name: training[name] for name in ("learning_rate", "targets_per_step", "max_epochs", "schedule")}
    assert used == {"learning_rate": 5e-5, "targets_per_step": 128, "max_epochs": 1, "schedule": "linear"}
