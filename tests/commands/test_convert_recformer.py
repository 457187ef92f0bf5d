"""convert for the released Recformer: there and back with the same tensors, with a catalogue, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linguarec
from linguarec.commands.convert import convert
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.tokenize import tokenize
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.families.opening import open_model
from linguarec.families.recformer.model import Recformer, RecformerConfig
from linguarec.families.recformer.released_tensors import to_released_recformer
from linguarec.families.weights import save_model
from linguarec.nn.shape import CatalogueShape
from linguarec.seals import unseal
from linguarec.training.settings import TrainingSettings

CONFIG = RecformerConfig(
    vocabulary=400, hidden_size=24, layers=2, heads=3, inner_size=32, window=8, max_tokens=60, max_items=6, positions=64,
    first_position=2, layer_norm_eps=1e-5,
)  # fmt: skip
TOLD = {
    "model_type": "longformer", "num_attention_heads": 3, "attention_window": [512, 512], "max_token_num": 60, "temp": 0.05,
    "layer_norm_eps": 1e-5, "pad_token_id": 1,
}  # fmt: skip


@pytest.fixture
def released(tmp_path: Path) -> dict[str, Any]:
    """A checkpoint as the released code saves one, its settings, and the window that they do not tell."""
    torch.manual_seed(0)
    state = to_released_recformer(Recformer(CONFIG).state_dict())
    torch.save(state, tmp_path / "recformer_seqrec_ckpt.bin")
    (tmp_path / "config.json").write_text(json.dumps(TOLD))
    return {"source": tmp_path / "recformer_seqrec_ckpt.bin", "released_config": tmp_path / "config.json", "window": 8}


def test_there_and_back(released: dict[str, Any], tmp_path: Path) -> None:
    folder, back = tmp_path / "folder", tmp_path / "back.bin"
    result = convert(**released, output=folder)
    assert (result["model"], result["heads"], result["window"], result["items"]) == ("recformer", 3, 8, 0)
    model, description = open_model(folder)
    assert isinstance(model, Recformer)
    assert model.config == CONFIG
    assert description.encoder is None
    convert(folder, back)
    before, after = (torch.load(file, weights_only=True) for file in (released["source"], back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("first_position", [0, 2])
def test_what_tensors_do_not_tell_is_written_beside_them(first_position: int, tmp_path: Path) -> None:
    """A Recformer made from a BERT, too, comes back as it was: also its first position, epsilon and window."""
    config = replace(CONFIG, first_position=first_position, layer_norm_eps=1e-12, temperature=0.1, max_tokens=40)
    description = ModelDescription(FAMILIES["recformer"], config, None, CatalogueShape(0))
    save_model(Recformer(config), description, tmp_path / "ours")
    written = convert(tmp_path / "ours", tmp_path / "theirs.bin")
    assert written["released_config"] == str(tmp_path / "theirs.config.json")
    result = convert(tmp_path / "theirs.bin", tmp_path / "again", released_config=tmp_path / "theirs.config.json")
    assert result["assumed"] == {}
    assert open_model(tmp_path / "again")[1].config == config


def test_what_was_published_is_assumed_and_shown(released: dict[str, Any], tmp_path: Path) -> None:
    """The number of heads alone makes the same model as all settings do."""
    result = convert(released["source"], tmp_path / "folder", heads=3, window=8)
    model, _ = open_model(tmp_path / "folder")
    assert isinstance(model, Recformer)
    assert model.config == replace(CONFIG, max_tokens=62)  # as long as the table of positions, 64 rows from row 2 on
    assert result["assumed"] == {
        "model_type": "longformer", "pad_token_id": 1, "max_token_num": 1024, "temp": 0.05, "mlm_weight": 0.1,
        "layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    }  # fmt: skip
    assert json.loads((tmp_path / "folder" / "settings.json").read_text())["assumed"] == result["assumed"]
    assert convert(released["source"], tmp_path / "published", heads=3)["window"] == 64
    with pytest.raises(CheckpointMismatchError, match=r"attention_window is \[512, 512\].* sets 64 in code.*--window"):
        convert(released["source"], tmp_path / "other", released_config=released["released_config"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heads": 5}, "hidden_size 24 is not divisible by heads 5"),
        ({"heads": 0}, "heads is 0; it must be at least 1"),
        ({"heads": 3, "window": 7}, "window is 7; it must be even"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, int], message: str, released: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match=f"cannot become a Recformer: .*{message}"):
        convert(released["source"], tmp_path / "folder", **{"window": 8, **given})
    assert not (tmp_path / "folder").exists()


def test_word_embeddings_from_another_file(released: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(400, 24)}, tmp_path / "words.bin")
    with pytest.raises(CheckpointMismatchError, match="has word embeddings of its own; leave --word-embeddings out"):
        convert(**released, output=tmp_path / "folder", word_embeddings=tmp_path / "words.bin")
    state = torch.load(released["source"], weights_only=True)
    words = {"longformer.embeddings.word_embeddings.weight": state.pop("longformer.embeddings.word_embeddings.weight")}
    torch.save(state, released["source"])
    torch.save(words, tmp_path / "words.bin")
    with pytest.raises(CheckpointMismatchError, match="--word-embeddings FILE"):
        convert(**released, output=tmp_path / "folder")
    torch.save({"first": torch.zeros(400, 24), "second": torch.zeros(400, 24)}, tmp_path / "two.bin")
    torch.save({"only": torch.zeros(400)}, tmp_path / "flat.bin")
    for name, count in (("two", 0), ("flat", 1)):
        expected = rf"--word-embeddings {tmp_path}/{name}.bin: expected one tensor named \.\.\.\S+, found {count}"
        with pytest.raises(SettingsError, match=expected):
            convert(**released, output=tmp_path / "folder", word_embeddings=tmp_path / f"{name}.bin")
    assert not (tmp_path / "folder").exists()
    convert(**released, output=tmp_path / "folder", word_embeddings=tmp_path / "words.bin")
    model, _ = open_model(tmp_path / "folder")
    assert isinstance(model, Recformer)
    assert torch.equal(model.word.weight, next(iter(words.values())))


def test_with_the_catalogue_of_a_prepared_folder(
    released: dict[str, Any], shops: list[Any], tiny_backbone: str, tmp_path: Path
) -> None:
    tokenize(shops[0].path, tiny_backbone, name="tiny")
    folder = tmp_path / "folder"
    assert convert(**released, output=folder, items=shops[0].path)["items"] == 48
    recommender = linguarec.load_model(folder)
    assert len(recommender.recommend([shops[0].raw_item_ids[:2]], k=3)[0]) == 3
    recommender.add_items([{"raw_id": "new", "title": shops[0].texts[4]}])
    keys = recommender.item_vectors()
    np.testing.assert_allclose(keys[-1], keys[4], atol=1e-4, rtol=1e-5)
    quick = TrainingSettings(learning_rate=1e-3, max_epochs=1, accelerator="cpu", targets_per_step=100)
    bare = tmp_path / "bare"
    convert(**released, output=bare)
    assert finetune("recformer", shops[0].path, tmp_path / "run", from_=bare, training=quick)["epochs"] == 2
    # Without a catalogue it takes the form of the tokens that it is given, and ranks as with one.
    ranked = [evaluate(model, shops[0].path, zero_shot=True, plots=False)["systems"] for model in (bare, folder)]
    means = [systems["recformer"]["ndcg@10"]["mean"] for systems in ranked]
    assert means[0] == pytest.approx(means[1])
    with pytest.raises(
        CheckpointMismatchError, match=r"has no sentences\.json, which describes how items become tokens"
    ):
        linguarec.load_model(bare)


def test_item_vectors_go_there_and_back(
    shops: list[Any], tiny_backbone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenize(shops[0].path, tiny_backbone, name="tiny")
    tokenize(shops[1].path, tiny_backbone, name="tiny")
    run, file, again = tmp_path / "run", tmp_path / "run.bin", tmp_path / "again"
    quick = TrainingSettings(learning_rate=1e-3, max_epochs=1, accelerator="cpu", targets_per_step=100)
    finetune("recformer", shops[0].path, run, RecformerConfig(window=16), backbone=tiny_backbone, training=quick)
    assert convert(run, file)["item_vectors"] == 48
    assert "item_model.safetensors) are not written" in caplog.text
    told = {"released_config": tmp_path / "run.config.json"}
    assert "item_embedding.weight" not in convert(file, again, items=shops[0].path, **told)["left_out"]
    before, after = (linguarec.load_model(folder) for folder in (run, again))
    torch.testing.assert_close(after.snapshot.ranker.keys, before.snapshot.ranker.keys)
    history = shops[0].raw_item_ids[:3]
    ranked = [[one.raw_id for one in model.recommend([history], k=20)[0]] for model in (before, after)]
    assert ranked[0] == ranked[1]
    # Those of another shop are no use.
    other = convert(file, tmp_path / "shop", items=shops[1].path, **told)
    assert f"item vectors (48, 32) are not of the 48 items of {shops[1].path}" in caplog.text
    assert "item_embedding.weight" in other["left_out"]
    cut = torch.load(file, weights_only=True)
    cut["item_embedding.weight"] = cut["item_embedding.weight"][:-1]
    torch.save(cut, file)
    convert(file, tmp_path / "other", items=shops[0].path, **told)
    assert "item vectors (47, 32) are not of the 48 items" in caplog.text
    (run / "keys.npy").unlink()
    unseal(run)
    assert convert(run, tmp_path / "unfinished.bin")["item_vectors"] == 0
    assert "of a training that has not finished" in caplog.text


def test_tensors_that_do_not_fit_are_refused_by_name(released: dict[str, Any], tmp_path: Path) -> None:
    folder, state = tmp_path / "folder", torch.load(released["source"], weights_only=True)
    lacking = "encoder.layer.0.output.dense.bias"
    torch.save({name: tensor for name, tensor in state.items() if not name.endswith(lacking)}, released["source"])
    with pytest.raises(CheckpointMismatchError, match=rf"cannot become a Recformer; it lacks: {lacking}\.$"):
        convert(**released, output=folder)
    state["longformer.encoder.layer.1.intermediate.dense.weight"] = torch.zeros(31, 24)
    state["longformer.encoder.layer.0.output.dense.bias"] = torch.zeros(25)
    torch.save(state, released["source"])
    with pytest.raises(CheckpointMismatchError) as caught:
        convert(**released, output=folder)
    told, *problems = str(caught.value).splitlines()
    assert told == f"{released['source']} does not fit its settings:"
    assert sorted(problems) == [
        "layers.0.outer.bias: (25,), needed (24,)",
        "layers.1.inner.weight: (31, 24), needed (32, 24)",
    ]
    assert not folder.exists()


def test_what_tensors_cannot_tell_must_be_given(released: dict[str, Any], shops: list[Any], tmp_path: Path) -> None:
    folder, source = tmp_path / "folder", released["source"]
    with pytest.raises(
        CheckpointMismatchError, match="number of attention heads; give it by --heads or --released-config"
    ):
        convert(source, folder)
    with pytest.raises(SettingsError, match="--codes: this is not for recformer"):
        convert(**released, output=folder, codes="pq", items=shops[0].path)
    state = torch.load(source, weights_only=True)
    torch.save({name: tensor for name, tensor in state.items() if "item_position" not in name}, source)
    with pytest.raises(CheckpointMismatchError, match="has no item positions: it is a language model"):
        convert(**released, output=folder)
    assert not folder.exists()
