"""Prepared folders, runs and language models whose files are cut short or do not belong together."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from linguarec.commands.compare import compare
from linguarec.commands.convert import convert
from linguarec.commands.encode import encode
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.recommend import recommend
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, DataFormatError, LinguarecError, SettingsError
from linguarec.nn.encoders import TransformerConfig
from linguarec.seals import unseal
from linguarec.training import fit
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=20)
ONE = TrainingSettings(targets_per_step=200, max_epochs=1, accelerator="cpu")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def rewritten(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda file: np.save(file, change(np.load(file)))


def with_row(row: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda items: np.concatenate([items[:-1], [row]]).astype(np.int32)


FOLDER: list[tuple[str, Callable[[Path], Any], str]] = [
    ("manifest.json", cut, r" is not JSON .* Prepare the folder again"),
    ("manifest.json", lambda file: file.write_text("[]"), " holds a list, expected an object"),
    (
        "manifest.json",
        lambda file: file.write_text('{"format_version": 1, "rows": 2}'),
        r" does not describe a prepared dataset folder: it lacks recipe, .* and it has the unknown rows",
    ),
    ("items.parquet", cut, r" is cut short, or not a Parquet file .* Prepare the folder again"),
    ("items.parquet", Path.unlink, " is missing. Prepare the folder again"),
    ("sequences/items.npy", cut, r" is cut short, or not a NumPy array .* Prepare the folder again"),
    ("sequences/items.npy", rewritten(with_row(48)), " holds item rows from 0 to 48, the folder has 48 items"),
    ("sequences/items.npy", rewritten(with_row(-1)), " holds item rows from -1 to 47, the folder has 48 items"),
    ("sequences/offsets.npy", rewritten(lambda offsets: offsets[::-1]), ": offsets must run from 0 to"),
    ("splits/leave-one-out.npy", rewritten(lambda roles: roles[:-4]), r" has shape \(\d+,\), the folder has \d+ inter"),
    ("features/words.json", cut, r" is not JSON .* Encode again: `linguarec encode .* --encoder words --overwrite`"),
    (
        "features/words.json",
        lambda file: file.write_text("{}"),
        " does not describe a text encoder: it lacks encoder, ",
    ),
]


@pytest.mark.parametrize(("name", "damage", "message"), FOLDER)
def test_a_prepared_folder_with_a_damaged_file(
    name: str, damage: Callable[[Path], Any], message: str, shops: list[PreparedDataset], tmp_path: Path
) -> None:
    folder = shops[1].path
    damage(folder / name)
    with pytest.raises(DataFormatError, match=f"^{folder / name}{message}"):
        finetune("unisrec", folder, tmp_path / "run", transformer=SMALL, training=ONE)
    assert not (tmp_path / "run").exists()


def test_users_that_cannot_be_read(shops: list[PreparedDataset]) -> None:
    cut(shops[0].path / "users.parquet")
    with pytest.raises(DataFormatError, match=f"^{shops[0].path}/users.parquet is cut short, or not a Parquet file"):
        _ = PreparedDataset.open(shops[0].path).raw_user_ids


def test_a_run_with_a_damaged_file(shops: list[PreparedDataset], tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    arguments: dict[str, Any] = {"transformer": SMALL, "training": ONE}
    finetune("unisrec", shops[0].path, whole, **arguments)
    history = shops[0].raw_item_ids[:1]

    def refused(name: str, message: str, command: Callable[[], Any]) -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        cut(run / name)
        unseal(run)  # as a run of an earlier version
        with pytest.raises(
            CheckpointMismatchError, match=rf"^{run / name} {message} .* Copy the folder again, or train"
        ):
            command()

    for name, message in (
        ("keys.npy", "is cut short, or not a NumPy array"),
        ("inputs.npy", "is cut short, or not a NumPy array"),
        ("catalogue.parquet", "is cut short, or not a Parquet file"),
        ("encoder.json", "is not JSON"),
        ("model.safetensors", "cannot be read as safetensors: .*"),
    ):
        refused(name, message, lambda: recommend(run, history))
        refused(name, message, lambda: evaluate(run, plots=False))
    refused("settings.json", "is not JSON", lambda: evaluate(run, plots=False))
    for name in ("settings.json", "metrics.json"):
        refused(name, "is not JSON", lambda: finetune("unisrec", shops[0].path, run, resume=True, **arguments))


def test_a_folder_without_a_training_cannot_be_resumed(
    shops: list[PreparedDataset], pretrained: Callable[..., Path]
) -> None:
    folder = pretrained("unisrec")
    with pytest.raises(CheckpointMismatchError, match=f"^{folder}/settings.json does not stand for a training"):
        finetune("sasrec", shops[0].path, folder, transformer=SMALL, training=ONE, resume=True)


def test_folders_that_are_not_there(shops: list[PreparedDataset], tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(DataFormatError, match=f"{absent} is not a prepared dataset folder: there is no such folder"):
        finetune("sasrec", absent, tmp_path / "run")
    with pytest.raises(CheckpointMismatchError, match=f"{absent} is not a run folder: it does not exist"):
        evaluate(absent)
    with pytest.raises(CheckpointMismatchError, match=f"{absent} holds no model: there is no such folder"):
        finetune("unisrec", shops[0].path, tmp_path / "run", from_=absent)


def test_a_prepared_folder_is_no_run(shops: list[PreparedDataset], tmp_path: Path) -> None:
    data = shops[0].path
    said = f"{data} is a prepared folder, not a run; train one with `linguarec finetune MODEL {data} -o RUN`."
    commands: list[Callable[[], Any]] = [
        lambda: evaluate(data, data),
        lambda: recommend(data, ["x"]),
        lambda: convert(data, tmp_path / "file.pth"),
        lambda: finetune("unisrec", data, tmp_path / "run", from_=data),
        lambda: compare(data, ["ease"], tmp_path / "report", runs=[data]),
    ]
    for command in commands:
        with pytest.raises(LinguarecError, match=f"{re.escape(said)}$"):
            command()


def test_a_training_stopped_in_its_first_epoch_is_a_run_without_a_model(
    shops: list[PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is stopped in a later stage holds no model either, though the first stage has ended its epochs."""

    def stop(**settings: Any) -> None:
        raise KeyboardInterrupt

    run, data = tmp_path / "run", shops[0].path
    with monkeypatch.context() as patch:
        patch.setattr(fit, "Trainer", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune("unisrec", data, run, transformer=SMALL, training=ONE)
    assert {file.name for file in run.iterdir()} >= {"settings.json", "run.yaml"}
    go_on = "go on with the command that began it and --resume."
    for stage in ("its first epoch", "the first epoch of its last stage"):
        said = f"{run} holds no model yet: its training was stopped before {stage} ended; {go_on}"
        for command in (
            lambda: finetune("unisrec", data, tmp_path / "other", from_=run),
            lambda: evaluate(run, data),
            lambda: convert(run, tmp_path / "file.pth"),
        ):
            with pytest.raises(CheckpointMismatchError, match=f"^{re.escape(said)}$"):
                command()
        (run / "permutation").mkdir(exist_ok=True)
        (run / "permutation" / "metrics.csv").write_text("epoch\n0\n")


def test_a_language_model_is_no_start(shops: list[PreparedDataset], tiny_backbone: str, tmp_path: Path) -> None:
    match = f"{tiny_backbone}/config.json does not describe a model .*: it lacks 'model'; it is of a 'bert' model"
    with pytest.raises(CheckpointMismatchError, match=match):
        finetune("unisrec", shops[0].path, tmp_path / "run", from_=Path(tiny_backbone))


def without_a_layer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layer.1." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def other_width(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 64', '"intermediate_size": 48'))


def larger_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zzz", "yyy"])
    tokenizer.save_pretrained(folder)


ENCODER: list[tuple[Callable[[Path], Any], type[LinguarecError], str]] = [
    (
        lambda folder: cut(folder / "model.safetensors"),
        SettingsError,
        "cannot be loaded as an encoder: .*Fetch the folder again",
    ),
    (lambda folder: cut(folder / "tokenizer.json"), SettingsError, "cannot be loaded as a tokenizer: .*Fetch the"),
    (lambda folder: cut(folder / "config.json"), SettingsError, "config.json is not JSON .*fetch the encoder again"),
    (
        lambda folder: (folder / "config.json").write_text('{"format_version": 1, "model": "unisrec"}'),
        SettingsError,
        "holds a unisrec of linguarec, expected a language model of transformers",
    ),
    (
        without_a_layer,
        CheckpointMismatchError,
        r"lack 16 tensors of the shape that its config.json asks for, such as encoder\.layer\.1\.attention",
    ),
    (other_width, CheckpointMismatchError, r"lack 6 tensors .* such as encoder\.layer\.0\.intermediate\.dense\.bias"),
    (
        larger_tokenizer,
        CheckpointMismatchError,
        r"The tokenizer in .* has \d+ tokens, the model beside it \d+ word emb",
    ),
]


@pytest.mark.parametrize(("damage", "error", "message"), ENCODER)
def test_an_encoder_whose_files_do_not_fit(
    damage: Callable[[Path], Any],
    error: type[LinguarecError],
    message: str,
    shops: list[PreparedDataset],
    tiny_backbone: str,
    tmp_path: Path,
) -> None:
    """transformers itself would fill what is missing with random numbers, and go on."""
    folder = tmp_path / "bert"
    shutil.copytree(tiny_backbone, folder)
    damage(folder)
    with pytest.raises(error, match=message):
        encode(shops[0].path, str(folder))
    assert shops[0].feature_names == ["words"]


def test_texts_without_tokens(make_dataset: Any, tiny_backbone: str) -> None:
    """This tokenizer adds no special tokens: of an empty text nothing is left, of no text at all there is no vector."""
    some = make_dataset([[0, 1, 2]], texts=["", "title", ""], name="some")
    assert encode(some.path, tiny_backbone, name="bert")["empty_texts"] == 2
    vectors = some.features("bert")
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert np.abs(vectors[0] - vectors[1]).max() > 0.1
    none = make_dataset([[0, 1, 2]], texts=["", "", ""], name="none")
    with pytest.raises(DataFormatError, match=f"No item of {none.path} has a text, so all would get one vector"):
        encode(none.path, tiny_backbone)
