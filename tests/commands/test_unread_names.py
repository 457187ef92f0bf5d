"""Names of vectors and codes, and settings, that a model would not read are refused, not dropped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from linguarec.batching.pretraining import NegativeSettings, ViewSettings
from linguarec.commands.compare import compare
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.commands.transfer import transfer
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

Shops = list[PreparedDataset]
QUICK = TrainingSettings(targets_per_step=200, max_epochs=1, accelerator="cpu")
SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=20)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("unisrec", {"codes": "own"}, "--codes: this is not for unisrec; leave it out"),
        ("sasrec", {"codes": "own"}, "--codes: this is not for sasrec; leave it out"),
        ("sasrec", {"features": "words"}, "--features: this is not for sasrec; leave it out"),
        ("vqrec", {"features": "words"}, "--features: this is not for vqrec; leave it out"),
    ],
)
def test_from_scratch(model: str, given: dict[str, str], message: str, shops: Shops, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        finetune(model, shops[1].path, tmp_path / "run", training=QUICK, **given)  # type: ignore[arg-type]
    assert caught.value.problems == [message]
    with pytest.raises(SettingsError) as caught:
        compare(shops[1].path, [model], tmp_path / "run", training=QUICK, baselines=False, **given)  # type: ignore[arg-type]
    assert caught.value.problems == [message]


def test_from_another_model(shops: Shops, pretrained: Callable[..., Path], tmp_path: Path) -> None:
    start, data, run = pretrained("vqrec"), shops[1].path, tmp_path / "run"
    for mode in ("direct", "permutation"):
        with pytest.raises(SettingsError, match=f"--features: this is not for vqrec --mode {mode}; leave it out"):
            finetune("vqrec", data, run, from_=start, mode=mode, features="words", training=QUICK)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="--features: this is not for vqrec with --ways scratch,full --mode direct"):
        transfer(data, start, run, ["scratch", "full"], mode="direct", features="words", training=QUICK)
    with pytest.raises(
        SettingsError, match="--codes: this is not for vqrec with --ways full --mode reuse; leave it out"
    ):
        transfer(data, start, run, ["full"], codes="own", training=QUICK)
    with pytest.raises(SettingsError, match="--codes: this is not for unisrec with --ways zero-shot --mode inductive"):
        transfer(data, pretrained("unisrec"), run, ["zero-shot"], codes="own", training=QUICK)
    assert not run.exists()


def test_vectors_beside_stored_codes_have_to_fit(
    shops: Shops, pretrained: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start, data = pretrained("vqrec"), shops[0].path  # its codes "own" are of the book of the start
    caplog.set_level("INFO")
    unknown = r"--features b: .* has no item vectors of that name; it has: words"
    with pytest.raises(SettingsError, match=unknown):
        finetune("vqrec", data, tmp_path / "run", from_=start, features="b", training=QUICK)
    with pytest.raises(SettingsError, match=unknown):
        evaluate(start, data, zero_shot=True, features="b")
    finetune("vqrec", data, tmp_path / "run", from_=start, features="words", training=QUICK)
    assert f"{data} has codes of that codebook, own; its vectors words are not read" in caplog.text


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("unisrec", {"codes": "own"}, "--codes: this is not for unisrec; leave it out"),
        ("vqrec", {"features": "words"}, "--features: this is not for vqrec without --from or --valid; leave it out"),
        (
            "vqrec",
            {"augmentation": ViewSettings(item_drop=0.5)},
            "--augmentation.item_drop: this is not for vqrec; leave it out",
        ),
        (
            "vqrec",
            {"augmentation": ViewSettings(word_drop=0)},
            "--augmentation.word_drop: this is not for vqrec; leave it out",
        ),
        (
            "unisrec",
            {"augmentation": NegativeSettings(code_replacement=0)},
            "--augmentation.code_replacement: this is not for unisrec; leave it out",
        ),
    ],
)
def test_in_pretraining(model: Any, given: dict[str, Any], message: str, shops: Shops, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        pretrain(model, [shops[0].path], tmp_path / "run", transformer=SMALL, training=QUICK, **given)
    assert caught.value.problems == [message]
