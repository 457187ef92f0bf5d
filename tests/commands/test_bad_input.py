"""Folders and files that do not go together or are damaged: refused, and both sides are named."""

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from linguarec.codes.codebook import ItemCodes
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.commands.quantize import quantize
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, DataFormatError, LinguarecError, SettingsError, StaleFeaturesError
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=20)
ONE = TrainingSettings(targets_per_step=200, max_epochs=1, accelerator="cpu")


def damage(file: Path, content: bytes | None = None) -> None:
    """Cut the file short, or put something else in its place."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)


Refused = Callable[[str, type[LinguarecError]], None]


@pytest.fixture(
    params=["finetune unisrec", "finetune sasrec-text", "pretrain", "pretrain --valid", "quantize", "zero-shot"]
)
def reading_vectors(
    request: pytest.FixtureRequest, shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> Refused:
    """Run a command that reads the vectors of the second shop and expect an error; nothing may be left of the run."""
    whole, broken, run = shops[0].path, shops[1].path, tmp_path / "new"
    start = pretrained("unisrec") if request.param == "zero-shot" else None

    def command() -> Any:
        match request.param.split():
            case ["finetune", model]:
                return finetune(model, broken, run, transformer=SMALL, training=ONE)
            case ["pretrain"]:
                return pretrain("unisrec", [whole, broken], run, transformer=SMALL)
            case ["pretrain", _]:
                return pretrain("unisrec", [whole], run, valid=broken, transformer=SMALL)
            case ["quantize"]:
                return quantize([whole, broken], "words", subvectors=4, centroids=8, name="new")
        assert start is not None
        return evaluate(start, broken, zero_shot=True)

    def refused(match: str, error: type[LinguarecError]) -> None:
        with pytest.raises(error, match=match):
            command()
        assert not run.exists()
        assert [shop.code_names for shop in shops] == [["own"], ["own"]]

    return refused


def test_items_that_lack_vectors(shops: list[PreparedDataset], reading_vectors: Refused) -> None:
    folder = shops[1]
    vectors, file = np.array(folder.features("words")), folder.feature_path("words")
    count = len(vectors)
    np.save(file, vectors[:-3])
    lacking = rf"{file} has shape \({count - 3}, 16\), expected \({count}, 16\): 3 items of the folder have no vector"
    mend = rf"linguarec encode {folder.path} --encoder words --overwrite"
    reading_vectors(rf"{lacking}\. Encode again: `{mend}`", StaleFeaturesError)
    damage(file)
    reading_vectors(rf"{file} is cut short, or not a NumPy array .* Encode again: `{mend}`", DataFormatError)
    file.unlink()
    reading_vectors(rf"{file} is missing\. Encode again: `{mend}`", DataFormatError)


def test_vectors_that_are_not_finite(shops: list[PreparedDataset], reading_vectors: Refused) -> None:
    folder = shops[1]
    vectors, file = np.array(folder.features("words")), folder.feature_path("words")
    vectors[5, 2], vectors[40, 0] = np.nan, -np.inf
    folder.write_features("words", vectors, folder.feature_info("words"))
    first = re.escape(folder.raw_item_ids[5])
    mend = rf"linguarec encode {folder.path} --encoder words --overwrite"
    found = rf"{file}: 2 of {len(vectors)} item vectors hold NaN or an infinity, first that of row 5 \(item '{first}'\)"
    reading_vectors(rf"{found}\. Encode again: `{mend}`", DataFormatError)


def test_word_drop_draws_that_do_not_fit(shops: list[PreparedDataset], tmp_path: Path) -> None:
    folder = shops[1]
    vectors = np.array(folder.features("words"))
    count, file = len(vectors), folder.feature_path("words").with_suffix(".drop0.npy")

    def refused(match: str, error: type[LinguarecError]) -> None:
        with pytest.raises(error, match=match):
            pretrain("unisrec", [shops[0].path, folder.path], tmp_path / "new", transformer=SMALL)

    np.save(file, vectors[1:])
    refused(rf"words.drop0.npy has shape \({count - 1}, 16\), expected \({count}, 16\)", StaleFeaturesError)
    vectors[7] = np.inf
    np.save(file, vectors)
    refused(rf"{file}: 1 of {count} item vector holds NaN or an infinity, first that of row 7", DataFormatError)


def test_vectors_of_two_encoders_under_one_name(shops: list[PreparedDataset], tmp_path: Path) -> None:
    first, second = (shop.path for shop in shops)
    info = replace(shops[1].feature_info("words"), encoder="org/other", weights_sha256="1" * 64)
    shops[1].write_features("words", shops[1].features("words"), info)
    differ = r"encoder org/other \(weights 111111111111\) against words \(weights 000000000000\)"
    mend = rf"`linguarec encode {second} --encoder words --pooling mean --name words --overwrite`"
    with pytest.raises(StaleFeaturesError, match=rf"of {second} and of {first} differ in {differ}\. .* {mend}"):
        quantize([first, second], "words", subvectors=4, centroids=8)


def test_a_domain_whose_items_lack_codes(shops: list[PreparedDataset], tmp_path: Path) -> None:
    whole, lacking = shops
    book = ItemCodes.load(whole.codes_path("own")).book
    codes, file = book.encode(np.array(lacking.features("words"))), lacking.codes_path("own")
    ItemCodes(codes[:-3], book).save(file)
    match = rf"{file}: The codes are of {len(codes) - 3} items, the catalogue has {len(codes)}"
    with pytest.raises(StaleFeaturesError, match=match):
        pretrain("vqrec", [whole.path, lacking.path], tmp_path / "run", transformer=SMALL)
    damage(file)
    with pytest.raises(DataFormatError, match=rf"{file} does not hold"):
        pretrain("vqrec", [whole.path, lacking.path], tmp_path / "run", transformer=SMALL)


def test_a_held_out_domain_that_the_code_book_does_not_fit(shops: list[PreparedDataset], tmp_path: Path) -> None:
    trained, held_out = shops
    vectors, info = np.array(held_out.features("words")), held_out.feature_info("words")

    def refused(match: str, error: type[LinguarecError]) -> None:
        with pytest.raises(error, match=match):
            pretrain("vqrec", [trained.path], tmp_path / "run", valid=held_out.path, transformer=SMALL)

    held_out.write_features("words", np.tile(vectors, 2), replace(info, width=32))
    fitted = rf"The codebook of this training was fitted on vectors of words .*, and {held_out.path} has"
    refused(rf"{fitted} vectors words \(width 32 against 16\)\. Encode", StaleFeaturesError)
    held_out.write_features("words", vectors, replace(info, weights_sha256="1" * 64))
    refused(rf"{fitted} vectors words \(encoder words \(weights 111111111111\) against", StaleFeaturesError)
    vectors[5, 2] = np.nan
    held_out.write_features("words", vectors, info)
    refused(rf"{held_out.feature_path('words')}: 1 of {len(vectors)} item vector holds NaN", DataFormatError)
    held_out.feature_path("words").with_suffix(".json").unlink()
    refused(
        rf"{fitted} no vectors\. .*`linguarec encode {held_out.path} --encoder words --pooling mean`",
        StaleFeaturesError,
    )


def test_a_held_out_domain_of_another_encoder(shops: list[PreparedDataset], tmp_path: Path) -> None:
    trained, held_out = shops
    vectors, info = np.array(held_out.features("words")), held_out.feature_info("words")
    reads = rf"^With {trained.path} this training reads vectors of words .*, and {held_out.path} has"
    for changed, found in (
        (replace(info, width=32), r"vectors words \(width 32 against 16\)\. Encode"),
        (replace(info, weights_sha256="1" * 64), r"vectors words \(encoder words \(weights 111111111111\) against"),
    ):
        held_out.write_features("words", np.tile(vectors, changed.width // info.width), changed)
        with pytest.raises(StaleFeaturesError, match=f"{reads} {found}"):
            pretrain("unisrec", [trained.path], tmp_path / "run", valid=held_out.path, transformer=SMALL)
    assert not (tmp_path / "run").exists()


def test_a_model_folder_whose_files_are_damaged(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start = pretrained("vqrec")

    def refused(
        name: str, content: bytes | None, match: str, error: type[LinguarecError] = CheckpointMismatchError
    ) -> None:
        file = start / name
        before = file.read_bytes()
        damage(file, content)
        with pytest.raises(error, match=f"{file}{match}"):
            finetune("vqrec", shops[1].path, tmp_path / "run", from_=start, training=ONE)
        file.write_bytes(before)

    refused("model.safetensors", None, " cannot be read as safetensors")
    refused("model.safetensors", b"PK of another program", " cannot be read as safetensors")
    refused("config.json", None, " is not JSON")
    refused(
        "config.json",
        b'{"model": "gru4rec", "encoder": {"kind": "gru"}}',
        ": unknown model 'gru4rec'; this linguarec has: sasrec",
    )
    refused(
        "config.json",
        b'{"architectures": ["BertModel"]}',
        " does not describe a model of this linguarec: it lacks 'model'",
    )
    refused("encoder.json", b'{"name": "bert"}', " does not describe a text encoder")
    refused("code_book.npz", None, " does not hold a codebook", DataFormatError)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_width_than_their_settings(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start = pretrained("vqrec")
    described = json.loads((start / "config.json").read_text())
    described["encoder"]["inner_size"] = 24
    (start / "config.json").write_text(json.dumps(described))
    match = rf"{start}/model.safetensors does not fit the model:\n(.*\n)*.*shape \(16, 16\), expected \(24, 16\)"
    with pytest.raises(CheckpointMismatchError, match=match):
        finetune("vqrec", shops[1].path, tmp_path / "run", from_=start, training=ONE)


def test_a_released_checkpoint_must_be_converted_first(shops: list[PreparedDataset], tmp_path: Path) -> None:
    file = tmp_path / "official.pth"
    file.touch()
    with pytest.raises(CheckpointMismatchError, match=rf"{file} is a file, .* `linguarec convert {file} -o FOLDER`"):
        finetune("unisrec", shops[1].path, tmp_path / "run", from_=file)


def test_a_checkpoint_to_resume_from_that_is_damaged(shops: list[PreparedDataset], tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune("sasrec", shops[0].path, run, transformer=SMALL, training=ONE)
    (run / "metrics.json").unlink()  # as if it had been killed
    (run / "checkpoints").mkdir()
    file = run / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": load_file(run / "model.safetensors")}, file)  # a checkpoint, but of no training
    whole = file.read_bytes()
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as archive:
        archive.writestr("notes/data.txt", "not a checkpoint")
    damaged = (whole, whole[:-1], whole[: len(whole) // 2], b"", b"PK\x03\x04 cut short")
    for content in (*damaged, (tmp_path / "foreign.zip").read_bytes()):
        file.write_bytes(content)
        with pytest.raises(
            CheckpointMismatchError, match=rf"{run}/checkpoints/last.ckpt is cut short, or not a checkpoint"
        ):
            finetune("sasrec", shops[0].path, run, transformer=SMALL, training=ONE, resume=True)
        assert file.read_bytes() == content


def test_fewer_users_than_a_step_takes(make_dataset: Any, tmp_path: Path) -> None:
    """Fine-tuning takes them all in one step; pre-training, whose negatives come from the step, asks for a smaller one."""
    vectors = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    few = make_dataset([[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]], features={"words": vectors}, name="few")
    two = TrainingSettings(max_epochs=2, accelerator="cpu")
    assert finetune("sasrec", few.path, tmp_path / "run", transformer=SMALL, training=two)["epochs"] == 2
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines()[-1].startswith("1,2,")  # epoch, steps so far
    match = r"takes 2048 targets, and all folders together have 6: .* lower --transformer.max_length to 3 at most"
    with pytest.raises(SettingsError, match=match):
        pretrain("unisrec", [few.path], tmp_path / "pre", transformer=SMALL, training=two)
    assert not (tmp_path / "pre").exists()
