"""Fine-tuning in two stages, self-supervision first, by the command: its folder, resuming, several processes, refusals."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import linguarec
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.s3rec.self_supervision import SelfSupervisionSettings
from linguarec.nn.encoders import TransformerConfig
from linguarec.runs.results import learning_curve
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
TRAINING = TrainingSettings(
    learning_rate=5e-3, targets_per_step=200, max_epochs=2, accelerator="cpu", checkpoint_every_n_steps=1
)
STAGE = SelfSupervisionSettings(epochs=3, targets_per_step=100)


def train(data: Path, run: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"transformer": SMALL, "training": TRAINING, "self_supervision": STAGE}
    return finetune("s3rec", data, run, **{**arguments, **changes})


def test_the_run_is_a_sasrec_that_began_with_the_weights_of_the_first_stage(
    shops: list[PreparedDataset], tmp_path: Path
) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    result = train(shops[0].path, run)
    finetune("sasrec", shops[0].path, alone, transformer=SMALL, training=TRAINING)
    first, last, other = (
        load_file(file)
        for file in (
            run / "self-supervision" / "weights.safetensors",
            run / "model.safetensors",
            alone / "model.safetensors",
        )
    )
    assert first.keys() == last.keys() == other.keys()
    assert not torch.equal(first["item.weight"], last["item.weight"])
    assert result["stages"]["self-supervision"]["epochs"] == 3
    assert result["epochs"] == 3 + 2
    with (run / "self-supervision" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert not [name for name in rows[0] if name.startswith("valid ")]
    assert learning_curve(run)[0] == [3, 4]
    saved = json.loads((run / "settings.json").read_text())
    assert (saved["features"], saved["self_supervision"]["epochs"]) == ("words", 3)
    assert not (run / "encoder.json").exists()  # in use it reads no text
    assert len(linguarec.load_model(run).recommend([shops[0].raw_item_ids[:3]], k=5)[0]) == 5


@pytest.mark.parametrize("step", [2, 4])
def test_killed_in_the_first_stage_it_goes_on_to_the_same_weights(
    step: int, shops: list[PreparedDataset], tmp_path: Path, until_killed: Callable[..., None]
) -> None:
    unbroken, broken, data = tmp_path / "unbroken", tmp_path / "broken", shops[0].path
    train(data, unbroken)
    options = {"transformer": SMALL, "training": TRAINING, "self_supervision": STAGE}
    until_killed("finetune", "s3rec", data, "-o", broken, where=f"batch.step == {step}", **options)
    assert (broken / "self-supervision" / "checkpoints").exists()
    assert not (broken / "self-supervision" / "metrics.json").exists()
    train(data, broken, resume=True)
    for name in ("self-supervision/weights.safetensors", "model.safetensors"):
        expected, found = load_file(unbroken / name), load_file(broken / name)
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_killed_in_the_second_stage_the_first_is_not_trained_again(
    shops: list[PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linguarec.training.module import FineTuning

    unbroken, broken, data = tmp_path / "unbroken", tmp_path / "broken", shops[0].path
    train(data, unbroken)

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        patched.setattr(FineTuning, "step_loss", die)
        train(data, broken)
    stage = broken / "self-supervision"
    before = (stage / "weights.safetensors").stat().st_mtime_ns
    assert not (stage / "checkpoints").exists()
    train(data, broken, resume=True)
    assert (stage / "weights.safetensors").stat().st_mtime_ns == before
    expected, found = (load_file(run / "model.safetensors") for run in (unbroken, broken))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    (broken / "metrics.json").unlink()
    (stage / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointMismatchError, match=r"weights\.safetensors"):
        train(data, broken, resume=True)


def test_two_processes_train_the_first_stage_as_one_does(shops: list[PreparedDataset], tmp_path: Path) -> None:
    """Without dropout, whose draws depend on the process."""
    losses, weights = [], []
    for devices in (1, 2):
        run = tmp_path / str(devices)
        command = [
            str(Path(sys.executable).parent / "linguarec"), "finetune", "s3rec", str(shops[0].path), "-o", str(run),
            "--training.devices", str(devices), "--training.accelerator", "cpu", "--training.precision", "fp32",
            "--training.max_epochs", "1", "--transformer.hidden_size", "16", "--transformer.dropout", "0",
            "--self-supervision.epochs", "2", "--self-supervision.targets_per_step", "100",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with (run / "self-supervision" / "metrics.csv").open() as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
        weights.append(load_file(run / "self-supervision" / "weights.safetensors"))
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    for key, expected in weights[0].items():
        torch.testing.assert_close(weights[1][key], expected, atol=1e-3, rtol=1e-2)


def test_what_it_cannot_do_is_refused(shops: list[PreparedDataset], make_dataset: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    plain = make_dataset([[0, 1, 2, 3]] * 4, name="plain")
    with pytest.raises(SettingsError, match="encode"):
        train(plain.path, run)
    with pytest.raises(SettingsError, match=r"self_supervision\.epochs is 0"):
        train(shops[0].path, run, self_supervision=SelfSupervisionSettings(epochs=0))
    with pytest.raises(SettingsError, match="takes 10 hidden places"):
        train(shops[0].path, run, self_supervision=SelfSupervisionSettings(targets_per_step=10))
    with pytest.raises(SettingsError, match="--sequence-encoder: this is not for s3rec"):
        train(shops[0].path, run, sequence_encoder="gru")
    assert not run.exists()
