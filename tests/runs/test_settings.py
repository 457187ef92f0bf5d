"""The settings of a run: written once, compared when it is resumed, and enough to repeat it by `--config run.yaml`."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from linguarec.arguments import parse
from linguarec.cli import COMMANDS
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.commands.finetune import finetune, finetuning_request
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, OutputError, SettingsError
from linguarec.families import FAMILIES
from linguarec.families.ease.model import EASEConfig
from linguarec.families.ease_text.model import EASETextConfig
from linguarec.families.itemknn.model import ItemKNNConfig
from linguarec.families.recformer.model import RecformerConfig
from linguarec.families.sasrec.model import SASRecConfig
from linguarec.families.textknn.model import TextKNNConfig
from linguarec.files import writing_folder
from linguarec.nn.encoders import GRUConfig, TransformerConfig
from linguarec.runs.folder import training_folder
from linguarec.runs.results import FinetuneResult
from linguarec.runs.settings import CONFIG_FILE, SETTINGS_FILE, RunSettings, read_settings
from linguarec.text.attributes import AttributeTokenizer
from linguarec.text.token_store import write_tokens
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, layers=1, heads=2, inner_size=16, dropout=0.3, max_length=6)
TRAINING = TrainingSettings(
    learning_rate=0.002, targets_per_step=64, max_epochs=7, accelerator="cpu", loggers=["tensorboard", "mlflow"]
)
TINY_RECFORMER = RecformerConfig(
    hidden_size=16, layers=1, heads=2, inner_size=16, window=4, max_tokens=30, max_items=5, positions=32
)


@pytest.fixture
def dataset(make_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    """A folder with vectors, codes and tokens."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((12, 8)).astype(np.float32)
    made = make_dataset([rng.permutation(12)[:6].tolist() for _ in range(8)], features={"enc": vectors})
    book = CodeBook("pq", rng.standard_normal((4, 8, 2)).astype(np.float32), None, None, "enc", "0" * 64)
    ItemCodes(book.encode(vectors), book, made.texts_fingerprint).save(made.codes_path("pq"))
    tokenizer = AttributeTokenizer.load("all-MiniLM-L6-v2", ["title"], attribute_tokens=8)
    with writing_folder(made.tokens_path("words")) as folder:
        write_tokens(folder, tokenizer, map(tokenizer.tokenize, [{"title": made.texts}]), made.fingerprint)
    return made


def planned(model: str, data: Path, output: Path, **given: Any) -> RunSettings:
    """The settings of a fine-tuning; nothing is trained or written."""
    names = ("config", "training", "from_", "split", "users", "seed")
    own = {"config": None, "training": None, "from_": None, "split": "leave-one-out", "users": 1.0, "seed": 0}
    own |= {name: given.pop(name) for name in names if name in given}
    family = FAMILIES[model]
    request = finetuning_request(family, data, output, *(own[name] for name in names), given)
    return RunSettings.of("finetune", request, family.finetuning.plan(request))


def opened(run: Path, settings: RunSettings, resume: bool = False, overwrite: bool = False) -> FinetuneResult | None:
    """Open the folder of a training that ends at once."""
    with training_folder(run, settings, resume, overwrite, FinetuneResult) as done:
        return done


def stored(settings: RunSettings) -> dict[str, Any]:
    """As a run of these settings holds them."""
    found: dict[str, Any] = json.loads(json.dumps(settings.to_dict()))
    return found


@pytest.fixture
def settings(dataset: PreparedDataset, tmp_path: Path) -> RunSettings:
    config = SASRecConfig(initializer_range=0.5)
    return planned(
        "sasrec", dataset.path, tmp_path / "run", config=config, training=TRAINING, transformer=SMALL, seed=4
    )


# -- writing


def test_settings_json_tells_command_model_data_and_all_settings(
    settings: RunSettings, dataset: PreparedDataset, tmp_path: Path
) -> None:
    settings.write(tmp_path / "run")
    found = read_settings(tmp_path / "run")
    assert found == stored(settings)
    assert {key: found[key] for key in ("command", "model", "seed", "split", "users", "sequence_encoder", "from")} == {
        "command": "finetune", "model": "sasrec", "seed": 4, "split": "leave-one-out", "users": 1.0,
        "sequence_encoder": "transformer", "from": None,
    }  # fmt: skip
    assert (found["data"], found["data_fingerprint"]) == (str(dataset.path), dataset.fingerprint)
    assert found["training"] == asdict(TRAINING)
    assert found["config"] == {"initializer_range": 0.5}
    assert found["encoder"] == {"kind": "transformer", **asdict(SMALL)}
    assert found["shape"]["num_items"] == 12
    assert {"python", "torch", "linguarec"} <= found["versions"].keys()


SETTINGS_OF: Mapping[str, dict[str, Any]] = {
    name: {"transformer": SMALL, "users": 0.5} for name, family in FAMILIES.items() if family.encoders
} | {
    "recformer": {"config": TINY_RECFORMER, "tokens": "words"},
    "ease": {"config": EASEConfig(regularisation=20, decay=1), "users": 0.5},
    "ease-text": {"config": EASETextConfig(regularisation=20, text_weight=5), "users": 0.5},
    "itemknn": {"config": ItemKNNConfig(neighbours=7, decay=1), "users": 0.5},
    "textknn": {"config": TextKNNConfig(decay=0.5), "users": 0.5},
}


@pytest.mark.parametrize("model", [name for name in FAMILIES if name != "blend"])  # a blend is no training
def test_the_run_is_repeated_by_its_config(model: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    first = planned(model, dataset.path, tmp_path / "run", training=TRAINING, seed=4, **SETTINGS_OF[model])
    first.write(tmp_path / "run")
    words = [model, str(dataset.path), "-o", str(tmp_path / "again"), "--config", str(tmp_path / "run" / CONFIG_FILE)]
    call = parse(finetune, words, "linguarec finetune", COMMANDS["finetune"])
    assert call is not None
    given = {name: value for name, value in call.arguments.items() if name not in ("model", "data", "output")}
    assert not given.pop("resume")
    assert not given.pop("overwrite")
    again = planned(model, dataset.path, tmp_path / "again", **given)
    assert stored(again) == stored(first)
    assert again.to_flags() == first.to_flags()
    assert again.differences(stored(first)) == []


def test_run_yaml_holds_flags_alone_and_none_that_was_left_out(settings: RunSettings, tmp_path: Path) -> None:
    settings.write(tmp_path / "run")
    found = yaml.safe_load((tmp_path / "run" / CONFIG_FILE).read_text())
    assert found == {
        "sequence_encoder": "transformer",
        "history_in_softmax": "kept",
        "ties": "fixed",
        "transformer": asdict(SMALL),
        "split": "leave-one-out",
        "users": 1.0,
        "seed": 4,
        "model": {"initializer_range": 0.5},
        "training": asdict(TRAINING),
    }


def test_a_run_of_a_start_names_it_as_a_flag(settings: RunSettings) -> None:
    taken = {"folder": "runs/pre", "model": "sasrec", "weights_sha256": "0", "loaded": [], "new": [], "left_out": []}
    started = replace(settings, start=taken)
    assert started.to_flags()["from"] == "runs/pre"
    assert started.to_dict()["from"] == taken


# -- opening the folder


def test_the_settings_of_a_run_are_written_once(settings: RunSettings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert opened(run, settings, resume=True) is None  # there is nothing to resume yet
    files = [run / SETTINGS_FILE, run / CONFIG_FILE]
    for file in files:
        os.utime(file, (1, 1))
    before = [file.read_bytes() for file in files]
    assert opened(run, settings, resume=True) is None
    other = replace(settings, training=replace(TRAINING, learning_rate=0.1))
    with pytest.raises(SettingsError, match=r"training\.learning_rate: the run has 0\.002, now 0\.1"):
        opened(run, other, resume=True)
    with pytest.raises(OutputError, match="exists already; go on with it by --resume"):
        opened(run, settings)
    assert [file.read_bytes() for file in files] == before
    assert [file.stat().st_mtime for file in files] == [1, 1]
    assert opened(run, other, overwrite=True) is None
    assert read_settings(run)["training"]["learning_rate"] == 0.1


def test_a_finished_run_gives_its_results_again(settings: RunSettings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings.write(run)
    means = {"valid": {"ndcg@10": 0.5}, "test": {"ndcg@10": 0.25}}
    metrics = {"run": str(run), "model": "sasrec", "seed": 4, "best_epoch": 1, "epochs": 2, "seconds": 1.5, **means}
    (run / "metrics.json").write_text(json.dumps(metrics))
    done = opened(run, settings, resume=True)
    assert done is not None
    assert done.to_dict() == metrics
    assert done.test == {"ndcg@10": 0.25}


def test_folders_that_hold_no_training_are_named(settings: RunSettings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match=r"none is not a run folder: it does not exist\. Make one by"):
        read_settings(tmp_path / "none")
    with pytest.raises(CheckpointMismatchError, match=rf"is not a run folder: it has no {SETTINGS_FILE}"):
        read_settings(tmp_path)
    (tmp_path / SETTINGS_FILE).write_text('{"released_as": "SASRec"}')
    with pytest.raises(CheckpointMismatchError, match="does not stand for a training, so there is none to go on with"):
        opened(tmp_path, settings, resume=True)


# -- resuming


def test_a_pre_training_of_an_earlier_version_had_steps_of_all_domains(settings: RunSettings) -> None:
    now = replace(settings, command="pretrain", flags={**settings.flags, "mixing": 1.0, "domains_per_step": "all"})
    before = stored(now)
    del before["domains_per_step"]
    assert now.differences(before) == []
    one = replace(now, flags={**now.flags, "domains_per_step": "one"})
    assert one.differences(before) == ["domains_per_step: the run has 'all', now 'one'"]


def test_differences_name_flags_with_both_values(settings: RunSettings) -> None:
    before = stored(settings)
    assert settings.differences(before) == []
    description = settings.description
    assert description.encoder is not None
    now = replace(
        settings,
        description=replace(
            description,
            config=SASRecConfig(initializer_range=0.1),
            encoder=replace(description.encoder, dropout=0.0),
        ),
        training=replace(TRAINING, learning_rate=0.1, loggers=[]),
        flags={**settings.flags, "seed": 5},
    )
    assert sorted(now.differences(before)) == [
        "model.initializer_range: the run has 0.5, now 0.1",
        "seed: the run has 4, now 5",
        "training.learning_rate: the run has 0.002, now 0.1",
        "training.loggers: the run has ['tensorboard', 'mlflow'], now []",
        "transformer.dropout: the run has 0.3, now 0.0",
    ]


def test_another_encoder_is_one_difference(settings: RunSettings, dataset: PreparedDataset, tmp_path: Path) -> None:
    gru = planned(
        "sasrec", dataset.path, tmp_path / "run", config=settings.description.config, training=TRAINING, seed=4,
        sequence_encoder="gru", gru=GRUConfig(hidden_size=16, inner_size=16, max_length=6),
    )  # fmt: skip
    assert gru.differences(stored(settings)) == ["sequence_encoder: the run has 'transformer', now 'gru'"]


def test_names_of_items_are_compared_too(dataset: PreparedDataset, tmp_path: Path) -> None:
    first = planned("unisrec", dataset.path, tmp_path / "run", training=TRAINING, transformer=SMALL)
    dataset.write_features("other", np.zeros((12, 8), np.float32), dataset.feature_info("enc"))
    now = planned("unisrec", dataset.path, tmp_path / "run", training=TRAINING, transformer=SMALL, features="other")
    assert now.differences(stored(first)) == ["features: the run has 'enc', now 'other'"]


def test_other_data_is_told_by_its_content_not_by_its_place(settings: RunSettings) -> None:
    before = stored(settings)
    moved = before | {"data": "/elsewhere", "versions": {"torch": "1.0"}}
    assert settings.differences(moved) == []
    place, other = before["data"], {"data_fingerprint": "0" * 64}
    assert settings.differences(before | other) == [f"data: {place} has other contents now"]
    elsewhere = [f"data: the run has /elsewhere, now {place} with other contents"]
    assert settings.differences(moved | other) == elsewhere


def test_of_several_folders_those_with_other_contents_are_named(settings: RunSettings) -> None:
    one = settings.data[0]
    now = replace(settings, command="pretrain", data=[one, one])
    before = stored(now) | {"data": ["/old", "/other"]}
    digests = [one.fingerprint, "0" * 64]
    expected = [f"data: the run has /other, now {one.path} with other contents"]
    assert now.differences(before | {"data_fingerprints": digests}) == expected
    fewer = before | {"data": ["/old"], "data_fingerprints": digests[:1]}
    assert now.differences(fewer) == [f"data: the run has /old, now {one.path}, {one.path}"]
    valid = before | {"valid": "/valid", "valid_fingerprint": "1" * 64}
    assert now.differences(valid) == ["valid: the run has /valid, now none"]


def test_a_closed_form_is_compared_by_the_training_settings_that_it_reads(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    before = planned("ease", dataset.path, tmp_path / "run", training=TRAINING)
    other = replace(TRAINING, max_epochs=3, learning_rate=0.1, patience=2, loggers=[])
    assert replace(before, training=other).differences(stored(before)) == []
    for name, value, said in (
        ("valid_users", 5, "the run has 0, now 5"),
        ("stop_by", "excluded", "the run has 'kept', now 'excluded'"),
        ("accelerator", "auto", "the run has 'cpu', now 'auto'"),
    ):
        now = replace(before, training=replace(other, **{name: value}))
        assert now.differences(stored(before)) == [f"training.{name}: {said}"]


def test_a_start_is_told_by_its_weights(settings: RunSettings) -> None:
    taken = {"folder": "runs/pre", "model": "sasrec", "weights_sha256": "0", "mode": None, "frozen": "encoder"}
    started = replace(settings, start=taken)
    moved = stored(replace(started, start=taken | {"folder": "runs/moved"}))
    assert started.differences(moved) == []
    trained_on = stored(replace(started, start=taken | {"weights_sha256": "1", "frozen": "none"}))
    assert sorted(started.differences(trained_on)) == [
        "from.frozen: the run has 'none', now 'encoder'",
        "from: runs/pre has other weights now",
    ]
    assert started.differences(moved | {"from": moved["from"] | {"weights_sha256": "1"}}) == [
        "from: the run has runs/moved, now runs/pre with other weights"
    ]
    # Without a start on one side the tensors that were loaded are no differences of their own.
    assert started.differences(stored(settings)) == ["from: the run has none, now runs/pre"]
    assert settings.differences(moved) == ["from: the run has runs/moved, now none"]


def test_settings_that_a_run_does_not_know_have_their_defaults(settings: RunSettings) -> None:
    before = stored(settings)
    del before["training"]["window_stride"]
    assert settings.differences(before) == []
    strided = replace(settings, training=replace(TRAINING, window_stride=5))
    assert strided.differences(before) == ["training.window_stride: the run has 0, now 5"]
