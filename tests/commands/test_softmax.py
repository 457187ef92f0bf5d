"""Fine-tuning over a sample of the items, by the command: what is recorded, resuming, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from prepared import tiny_shop
from safetensors.torch import load_file

from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.families.softmax import SoftmaxSettings
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=8)
TRAINING = TrainingSettings(
    learning_rate=5e-3, targets_per_step=100, max_epochs=2, accelerator="cpu", checkpoint_every_n_steps=1
)


@pytest.fixture
def data(make_dataset: Any) -> Path:
    return tiny_shop(make_dataset).path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    found, expected = weights(one), weights(other)
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("model", "softmax"),
    [("unisrec-transductive", SoftmaxSettings("sampled", 10)), ("sasrec", SoftmaxSettings("gbce", 10, 0.5))],
)
def test_killed_it_goes_on_to_the_same_weights(
    model: str, softmax: SoftmaxSettings, data: Path, tmp_path: Path, until_killed: Callable[..., None]
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finetune(model, data, unbroken, transformer=SMALL, training=TRAINING, softmax=softmax)
    words = ("finetune", model, data, "-o", broken)
    until_killed(*words, where="batch.step == 2", transformer=SMALL, training=TRAINING, softmax=softmax)
    finetune(model, data, broken, transformer=SMALL, training=TRAINING, softmax=softmax, resume=True)
    assert same(broken, unbroken)
    settings = json.loads((broken / "settings.json").read_text())
    assert settings["softmax"] == vars(softmax)
    assert yaml.safe_load((broken / "run.yaml").read_text())["softmax"] == vars(softmax)


def test_as_many_negatives_as_items_are_the_full_softmax(data: Path, tmp_path: Path) -> None:
    for name, softmax in (
        ("full", None),
        ("all", SoftmaxSettings("sampled", 10_000)),
        ("few", SoftmaxSettings("sampled", 5)),
    ):
        finetune("sasrec", data, tmp_path / name, transformer=SMALL, training=TRAINING, softmax=softmax)
    assert same(tmp_path / "all", tmp_path / "full")
    assert not same(tmp_path / "few", tmp_path / "full")


def test_a_run_of_an_earlier_version_can_be_resumed(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune("sasrec", data, run, transformer=SMALL, training=replace(TRAINING, max_epochs=1))
    settings = json.loads((run / "settings.json").read_text())
    assert settings.pop("softmax") is None
    (run / "settings.json").write_text(json.dumps(settings))
    again = {"transformer": SMALL, "training": replace(TRAINING, max_epochs=1), "resume": True}
    assert finetune("sasrec", data, run, **again)["epochs"] == 1
    with pytest.raises(SettingsError, match=r"softmax.kind: the run has None, now 'gbce'"):
        finetune("sasrec", data, run, **again, softmax=SoftmaxSettings("gbce"))


@pytest.mark.parametrize("model", ["vqrec-permutation", "gradient_clip", "accumulate", "averaging", "weight_decay"])
def test_it_goes_with_the_other_settings(
    model: str, shops: list[PreparedDataset], tmp_path: Path, pretrained: Callable[..., Path]
) -> None:
    softmax = SoftmaxSettings("sampled", 10)
    if model == "vqrec-permutation":
        start = pretrained("vqrec")
        result = finetune(
            "vqrec",
            shops[1].path,
            tmp_path / "run",
            from_=start,
            mode="permutation",
            training=TRAINING,
            softmax=softmax,
        )
    else:
        value = {"gradient_clip": 0.5, "accumulate": 2, "averaging": 2.0, "weight_decay": 0.1}[model]
        training = replace(TRAINING, **{model: value})
        result = finetune(
            "sasrec",
            shops[0].path,
            tmp_path / "run",
            transformer=SMALL,
            training=training,
            softmax=softmax,
            history_in_softmax="excluded",
        )
    assert result["epochs"] == (7 if model == "vqrec-permutation" else 2)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


@pytest.mark.parametrize(
    ("model", "softmax", "sentence"),
    [
        ("sasrec", SoftmaxSettings("sampled", 0), "softmax.negatives is 0; it must be at least 1"),
        ("sasrec", SoftmaxSettings("gbce", 10, 1.5), r"softmax.calibration is 1.5; it must be in \[0, 1\]"),
        ("sasrec", SoftmaxSettings("sampled", 10, 0.5), "softmax.calibration is for --softmax.kind gbce"),
        ("sasrec", SoftmaxSettings("full", 10), "softmax.negatives is for --softmax.kind sampled or gbce"),
        ("ease", SoftmaxSettings("gbce"), "--softmax.*: this is not for ease"),
        ("recformer", SoftmaxSettings("gbce"), "--softmax.*: this is not for recformer"),
    ],
)
def test_what_it_cannot_do_is_refused(
    model: str, softmax: SoftmaxSettings, sentence: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        finetune(model, data, tmp_path / "run", softmax=softmax)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(
    data: Path, tmp_path: Path, in_two_processes: Callable[..., dict[str, Any]]
) -> None:
    """Gradients of the item table are exchanged as rows."""
    groups: dict[str, Any] = {
        "transformer": replace(SMALL, dropout=0.0),  # each process draws its own dropout
        "training": replace(TRAINING, max_epochs=1, precision="fp32"),
        "softmax": SoftmaxSettings("sampled", 10),
    }
    finetune("sasrec", data, tmp_path / "one", **groups)
    in_two_processes("finetune", "sasrec", data, "-o", tmp_path / "two", **groups)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, atol=2e-3, rtol=1e-3)
