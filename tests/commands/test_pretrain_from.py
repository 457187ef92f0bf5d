"""Pre-training from another model: what is taken over, resuming, what does not fit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from linguarec.batching.pretraining import ViewSettings
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.commands.tokenize import tokenize
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.errors import CheckpointMismatchError, LinguarecError, SettingsError, StaleFeaturesError
from linguarec.families.opening import read_description
from linguarec.families.recformer.model import RecformerConfig
from linguarec.families.unisrec.model import UniSRecConfig
from linguarec.nn.encoders import GRUConfig, TransformerConfig
from linguarec.runs.settings import read_settings
from linguarec.seals import unseal
from linguarec.training.module import PreTraining
from linguarec.training.settings import TrainingSettings

Shops = list[PreparedDataset]
NO_WORD_DROP = ViewSettings(word_drop=0)
CONFIG = RecformerConfig(window=16, max_tokens=128, max_items=8, attention_dropout=0.0)


def settings(**changes: Any) -> TrainingSettings:
    quick: dict[str, Any] = {"learning_rate": 5e-3, "targets_per_step": 200, "max_epochs": 1, "accelerator": "cpu"}
    return TrainingSettings(**{**quick, **changes})


def further(model: Any, data: Shops, run: Path, start: Path, **changes: Any) -> dict[str, Any]:
    """Pre-train from `start`; by default a step so small that the weights stay."""
    given = {"training": settings(learning_rate=1e-12), "augmentation": NO_WORD_DROP if model == "unisrec" else None}
    return pretrain(model, [shop.path for shop in data], run, from_=start, **{**given, **changes})


def recorded(run: Path) -> dict[str, Any]:
    """What the settings record of the start, with paths that hold here."""
    found: dict[str, Any] = read_settings(run)["from"]
    return found


def assert_same_weights(left: Path, right: Path, names: list[str] | None = None, atol: float = 1e-6) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (left, right))
    for name in after if names is None else names:
        torch.testing.assert_close(after[name], before[name], atol=atol, rtol=0, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("model", ["unisrec", "vqrec"])
def test_weights_and_sizes_are_taken_over(
    model: str, shops: Shops, pretrained: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start, run = pretrained(model), tmp_path / "run"
    caplog.set_level("INFO")
    further(model, shops, run, start)
    assert_same_weights(start, run)
    assert read_description(run).encoder == replace(read_description(start).encoder)  # 16 wide, not as by default
    taken = recorded(run)
    assert set(taken["loaded"]) == set(load_file(start / "model.safetensors"))
    assert (taken["folder"], taken["new"], taken["left_out"], taken["frozen"]) == (str(start), [], [], "none")
    assert f"from {start} ({model}): {len(taken['loaded'])} tensors loaded" in caplog.text
    learned = tmp_path / "learned"
    further(model, shops, learned, start, training=settings(max_epochs=2))
    before, after = (load_file(folder / "model.safetensors") for folder in (start, learned))
    assert all(not torch.equal(before[name], after[name]) for name in before)
    # What came out is a start like any other, and what it reads goes on being that of the first.
    tuned = finetune(model, shops[1].path, tmp_path / "tuned", from_=learned, training=settings())
    assert tuned["epochs"] == 1


def test_items_are_coded_with_the_book_of_the_start(
    shops: Shops, pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run = pretrained("vqrec"), tmp_path / "run"
    book = CodeBook.load(start / "code_book.npz")
    further("vqrec", shops, run, start)
    written = json.loads((run / "settings.json").read_text())
    assert written["codes"] == ["own", f"book-{book.fingerprint[:12]}"]
    codes = ItemCodes.load(shops[1].codes_path(written["codes"][1]))
    assert np.array_equal(codes.codes, book.encode(shops[1].features("words")))
    assert CodeBook.load(run / "code_book.npz").fingerprint == book.fingerprint


def test_vectors_of_the_book_are_found_by_their_hash(
    shops: Shops, pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    """As made by `encode --name mini`, of the training and of the held-out domain."""
    start, run = pretrained("vqrec"), tmp_path / "run"
    target = shops[1]
    target.write_features("mini", np.array(target.features("words")), target.feature_info("words"))
    target.feature_path("words").with_suffix(".json").unlink()
    further("vqrec", [target], run, start)
    assert json.loads((run / "encoder.json").read_text())["weights_sha256"] == "0" * 64
    further("vqrec", shops[:1], tmp_path / "held", start, valid=target.path)
    for folder in (run, tmp_path / "held"):
        valid = json.loads((folder / "metrics.json").read_text())["valid"]["ndcg@10"]
        assert valid == pytest.approx(zero_shot_valid(folder, target), abs=2e-2)  # that one was measured in bfloat16


def zero_shot_valid(folder: Path, data: PreparedDataset) -> float:
    """Valid ndcg@10 of the model in `folder` on items coded with its book."""
    found = evaluate(folder, data.path, split="valid", zero_shot=True, plots=False)
    value: float = found["systems"]["vqrec"]["ndcg@10"]["mean"]
    return value


def test_a_training_that_has_not_finished_is_warned_of_once(
    shops: Shops, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, data = tmp_path / "first", [shop.path for shop in shops]
    small = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=20)
    pretrain("unisrec", data, first, transformer=small, training=settings(), augmentation=NO_WORD_DROP)
    caplog.set_level("WARNING")
    warned = [f"{tmp_path / 'broken'} is of a training that has not finished; its best weights so far are taken"]
    for folder in (first, shutil.copytree(first, tmp_path / "broken")):
        if folder != first:
            (folder / "metrics.json").unlink()
        further("unisrec", shops, tmp_path / "further" / folder.name, folder)
        finetune("unisrec", data[1], tmp_path / "tuned" / folder.name, from_=folder, training=settings())
        evaluate(folder, data[1], zero_shot=True, plots=False)
        said = [record.getMessage() for record in caplog.records if "not finished" in record.getMessage()]
        assert said == ([] if folder == first else warned)


def test_an_unbroken_run_and_one_that_went_on_are_the_same(
    shops: Shops, pretrained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, unbroken, broken = pretrained("unisrec"), tmp_path / "unbroken", tmp_path / "broken"
    training = settings(max_epochs=2, checkpoint_every_n_steps=1)
    further("unisrec", shops, unbroken, start, training=training)
    trained = PreTraining.training_step

    def train_or_fail(self: PreTraining, batch: Any, batch_index: int) -> Any:
        if batch.step == 5:
            raise MemoryError
        return trained(self, batch, batch_index)

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(PreTraining, "training_step", train_or_fail)
        further("unisrec", shops, broken, start, training=training)
    found = further("unisrec", shops, broken, start, training=training, resume=True)
    assert_same_weights(unbroken, broken, atol=0)
    assert further("unisrec", shops, broken, start, training=training, resume=True) == found
    other = tmp_path / "other"
    further("unisrec", shops, other, start, training=settings())
    with pytest.raises(SettingsError, match=f"from: the run has {start}, now {other} with other weights"):
        further("unisrec", shops, broken, other, training=training, resume=True)
    with pytest.raises(SettingsError, match=f"from: the run has {start}, now none"):
        pretrain(
            "unisrec",
            [shop.path for shop in shops],
            broken,
            transformer=TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20),
            training=training,
            augmentation=NO_WORD_DROP,
            resume=True,
        )


def test_what_does_not_fit_is_refused_by_both_names(
    shops: Shops, pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run, shop = pretrained("unisrec"), tmp_path / "run", shops[1]
    with pytest.raises(SettingsError, match="--from and --output are both"):
        further("unisrec", shops, start, start)
    with pytest.raises(
        CheckpointMismatchError, match=f"{start} holds the model unisrec, and vqrec cannot start from it"
    ):
        further("vqrec", shops, run, start)
    with pytest.raises(SettingsError, match=rf"--transformer.layers 4: the weights of {start} are for 1"):
        further("unisrec", shops, run, start, transformer=TransformerConfig(layers=4))
    with pytest.raises(SettingsError, match=rf"--sequence-encoder gru: the one of {start} is a transformer"):
        further("unisrec", shops, run, start, sequence_encoder="gru", gru=GRUConfig())
    info = shop.feature_info("words")
    vectors = np.random.default_rng(0).normal(size=(shop.num_items, 32)).astype(np.float32)
    shop.write_features("wide", vectors, replace(info, encoder="words", width=32))
    other: FeatureInfo = replace(info, encoder="other", weights_sha256="1" * 64)
    shop.write_features("other", np.array(shop.features("words")), other)
    wanted = rf"{start} was trained on vectors of words .*width 16.* {shop.path} has "
    with pytest.raises(StaleFeaturesError, match=wanted + r"vectors wide \(width 32 against 16\)"):
        further("unisrec", [shop], run, start, features="wide")
    with pytest.raises(StaleFeaturesError, match=wanted + r"vectors other \(encoder other"):
        further("unisrec", [shop], run, start, features="other")
    further("unisrec", [shop], run, start, config=UniSRecConfig(temperature=0.1))  # of three it takes the one that fits
    assert json.loads((run / "settings.json").read_text())["features"] == "words"
    assert read_description(run).config.temperature == 0.1


def test_codes_of_another_book_are_refused(shops: Shops, pretrained: Callable[..., Path], tmp_path: Path) -> None:
    start, run = pretrained("vqrec"), tmp_path / "run"
    with pytest.raises(
        CheckpointMismatchError, match=rf"codes own of {shops[1].path} are of the codebook .*, the model in {start}"
    ):
        further("vqrec", shops, run, start, codes="own")
    (start / "code_book.npz").unlink()
    with pytest.raises(
        CheckpointMismatchError, match=rf"{start} has no codebook .*of the codebook that it was trained on\.$"
    ):
        further("vqrec", shops, run, start)
    assert not run.exists()


def test_a_recformer_goes_on_with_its_head(tokenized: Shops, tiny_backbone: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    training = settings(targets_per_step=60)
    pretrain("recformer", [tokenized[0].path], first, CONFIG, training=training, backbone=tiny_backbone)
    still = replace(training, learning_rate=1e-12)
    further("recformer", tokenized, second, first, training=still)
    assert_same_weights(first, second)
    taken = recorded(second)
    assert (taken["new"], taken["left_out"], taken["backbone"]) == ([], [], tiny_backbone)
    assert read_description(second) == read_description(first)
    with pytest.raises(SettingsError, match="--backbone and --from both name weights to start from"):
        further("recformer", tokenized, tmp_path / "c", first, backbone=tiny_backbone)
    with pytest.raises(SettingsError, match=rf"--model.layers 3: the weights of {first} are for 2"):
        further("recformer", tokenized, tmp_path / "c", first, config=RecformerConfig(layers=3))
    for shop in tokenized:
        (shop.path / "tokens" / "tiny").rename(shop.path / "tokens" / "hidden")
        tokenize(shop.path, "all-MiniLM-L6-v2", name="other")
        (shop.path / "tokens" / "hidden").rename(tmp_path / f"{shop.name}-tokens")
    with pytest.raises(
        StaleFeaturesError,
        match=rf"the tokenizer of {tiny_backbone}, and {tokenized[0].path} has other by that of all-M",
    ):
        further("recformer", tokenized, tmp_path / "c", first)
    assert not (tmp_path / "c").exists()


def test_a_recformer_without_a_head_gets_a_new_one(tokenized: Shops, tiny_backbone: str, tmp_path: Path) -> None:
    """As after fine-tuning, or in a released checkpoint: the words to guess begin as the word embeddings."""
    tuned, run = tmp_path / "tuned", tmp_path / "run"
    training = settings(targets_per_step=60)
    finetune("recformer", tokenized[0].path, tuned, CONFIG, backbone=tiny_backbone, training=training)
    still = replace(training, learning_rate=1e-12)
    further("recformer", tokenized[1:], run, tuned, training=still)
    start, found = (load_file(folder / "model.safetensors") for folder in (tuned, run))
    assert_same_weights(tuned, run, list(start))
    taken = recorded(run)
    assert set(taken["new"]) == set(found) - set(start) == {name for name in found if "language_head" in name}
    torch.testing.assert_close(found["language_head.words.weight"], start["word.weight"], atol=1e-6, rtol=0)
    unseal(tuned)
    (tuned / "sentences.json").unlink()  # as a converted checkpoint: only the number of words is checked
    tokenize(tokenized[1].path, "all-MiniLM-L6-v2", name="other")
    with pytest.raises(LinguarecError, match=r"knows 30,522 tokens, the model has [0-9]+ word embeddings"):
        further("recformer", tokenized[1:], tmp_path / "c", tuned, tokens="other")
