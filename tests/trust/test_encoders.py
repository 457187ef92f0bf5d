"""Encoders from elsewhere run no code of their own, and are found by their weights where a run was moved to."""

import io
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import linguarec.text.encoders
from linguarec import Recommender, load_model
from linguarec.cli import main
from linguarec.commands.compare import compare
from linguarec.commands.encode import encode
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.prepare import prepare_table
from linguarec.commands.quantize import quantize
from linguarec.commands.tokenize import tokenize
from linguarec.commands.transfer import transfer
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError, StaleFeaturesError
from linguarec.families.recformer.model import RecformerConfig
from linguarec.nn.encoders import TransformerConfig
from linguarec.runs.settings import read_settings
from linguarec.seals import unseal
from linguarec.sources.tokens import TokenSource
from linguarec.text.encoders import TextEncoder
from linguarec.text.references import fast_tokenizer, find_encoder
from linguarec.training.settings import TrainingSettings

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import BertConfig as Config, BertModel as Model, BertTokenizerFast as Tokens
"""


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A BERT of 16 dimensions with random weights."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path / "encoder"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "steel", "ruler", "tea", "towel"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, intermediate_size=32, max_position_embeddings=12)).save_pretrained(folder)
    return folder


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that code of the encoder creates; stdin answers "y" to every question."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "ran"


def with_code(folder: Path, marker: Path, model_type: str) -> None:
    """Let the folder's settings name a module of its own; an unknown `model_type` is known to that module alone."""
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    for name, classes in {
        "config.json": {"AutoConfig": "own.Config", "AutoModel": "own.Model"},
        "tokenizer_config.json": {"AutoTokenizer": [None, "own.Tokens"]},
    }.items():
        settings = json.loads((folder / name).read_text())
        settings["auto_map"] = classes
        if name == "config.json":
            settings["model_type"] = model_type
        elif model_type != "bert":
            settings["tokenizer_class"] = "OwnTokens"
        (folder / name).write_text(json.dumps(settings))


def test_an_encoder_that_needs_its_own_code_is_refused_without_a_question(encoder: Path, marker: Path) -> None:
    with_code(encoder, marker, "own")
    with pytest.raises(SettingsError):
        TextEncoder.load(str(encoder))
    assert not marker.exists()


def test_an_encoder_that_does_not_need_its_code_is_read_without_it(encoder: Path, marker: Path) -> None:
    with_code(encoder, marker, "bert")
    assert TextEncoder.load(str(encoder)).encode(["steel ruler"]).shape == (1, 16)
    assert fast_tokenizer(encoder).is_fast
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["own.Pooling", "sentence_transformers.models.Transformer"])
def test_modules_of_a_pipeline_run_no_code_either(encoder: Path, marker: Path, kind: str) -> None:
    with_code(encoder, marker, "own" if kind.startswith("sentence") else "bert")
    modules = [("", "sentence_transformers.models.Transformer"), ("1_Own", kind), ("2_Dense", "own.Dense")]
    described = [{"idx": i, "name": str(i), "path": path, "type": name} for i, (path, name) in enumerate(modules)]
    (encoder / "modules.json").write_text(json.dumps(described))
    for path, _ in modules[1:]:
        (encoder / path).mkdir()
        (encoder / path / "config.json").write_text("{}")
        (encoder / path / "own.py").write_text(CODE.format(marker=str(marker)))
    with pytest.raises(SettingsError, match="code of its own, which linguarec does not run"):
        TextEncoder.load(str(encoder))
    assert not marker.exists()


@pytest.fixture
def shop(tmp_path: Path, encoder: Path) -> Path:
    """A prepared folder in `before/`, beside its encoder, with vectors of it."""
    before = tmp_path / "before"
    before.mkdir()
    shutil.move(encoder, before / "encoder")
    rows: list[dict[str, Any]] = [
        {"user": f"u{user}", "item": f"i{(user + step) % 5}", "time": step} for user in range(8) for step in range(5)
    ]
    items = [
        {"item": f"i{row}", "title": title} for row, title in enumerate(["steel", "ruler", "tea", "towel", "tea towel"])
    ]
    prepare_table(
        rows,
        before / "data",
        items,
        user_column="user",
        item_column="item",
        time_column="time",
        items_item_column="item",
        k_core=0,
    )
    encode(before / "data", encoder=str(before / "encoder"))
    return before


TRAINING = TrainingSettings(max_epochs=1, targets_per_step=50, accelerator="cpu")


def vector_of_new_item(model: Recommender) -> Any:
    model.add_items([{"raw_id": "new", "title": "steel ruler"}])
    return model.item_vectors()[-1]


def test_a_run_that_was_moved_with_its_encoder_reads_new_items_by_text(shop: Path, tmp_path: Path) -> None:
    small = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=8)
    finetune("sasrec-text", shop / "data", shop / "run", transformer=small, training=TRAINING)
    expected = vector_of_new_item(load_model(shop / "run"))
    (tmp_path / "after" / "models").mkdir(parents=True)
    shutil.move(shop / "run", tmp_path / "after" / "run")
    for place in ("encoder", "models/encoder", "run/encoder"):
        target = tmp_path / "after" / place
        shutil.move(next(tmp_path.rglob("encoder/model.safetensors")).parent, target)
        moved = load_model(tmp_path / "after" / "run")
        if place == "models/encoder":  # neither in the run nor beside it
            with pytest.raises(SettingsError, match="no encoder"):
                vector_of_new_item(moved)
            continue
        np.testing.assert_array_equal(vector_of_new_item(moved), expected)


def test_the_weights_decide_and_not_the_place(shop: Path, encoder: Path) -> None:
    """Another encoder took the place of the recorded one, which stands in the run."""
    info = PreparedDataset.open(shop / "data").feature_info("encoder")
    (shop / "run").mkdir()
    shutil.copytree(shop / "encoder", shop / "run" / "encoder")
    (shop / "encoder" / "vocab.txt").write_text("another vocabulary")
    found = find_encoder(info.encoder, [shop / "run"], info.weights_sha256)
    assert found == shop / "run" / "encoder"
    with pytest.raises(StaleFeaturesError, match="has other weights here"):
        TextEncoder.load(info)


def text_of(folder: Path) -> dict[str, str]:
    """The text files of a folder; what is no text is read as one, too."""
    return {str(file.relative_to(folder)): file.read_text("latin-1") for file in folder.rglob("*") if file.is_file()}


def test_no_file_of_a_run_or_a_prepared_folder_holds_a_path_of_this_machine(shop: Path, tmp_path: Path) -> None:
    small = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=8)
    finetune("sasrec-text", shop / "data", shop / "first", transformer=small, training=TRAINING)
    finetune("sasrec-text", shop / "data", shop / "run", from_=shop / "first", transformer=small, training=TRAINING)
    evaluate(shop / "run")
    compare(shop / "data", ["sasrec-text"], shop / "all", seeds=1, transformer=small, training=TRAINING)
    transfer(shop / "data", shop / "first", shop / "transfer", shares=[100], seeds=1, training=TRAINING)
    tokenize(shop / "data", str(shop / "encoder"), attributes=["title"], attribute_tokens=4)
    shape = RecformerConfig(window=4, max_tokens=12, max_items=3)
    finetune("recformer", shop / "data", shop / "reader", shape, backbone=str(shop / "encoder"), training=TRAINING)
    for folder in ("data", "first", "run", "all", "transfer", "reader"):
        for name, text in text_of(shop / folder).items():
            assert str(tmp_path) not in text, f"{folder}/{name}"
    written = json.loads((shop / "run" / "settings.json").read_text())
    assert (written["data"], written["from"]["folder"]) == ("../data", "../first")
    assert json.loads((shop / "data/features/encoder.json").read_text())["encoder"] == "../../encoder"
    assert read_settings(shop / "run")["data"] == str(shop / "data")
    assert json.loads((shop / "reader/settings.json").read_text())["backbone"] == "../encoder"
    assert yaml.safe_load((shop / "reader/run.yaml").read_text())["backbone"] == "../encoder"
    assert PreparedDataset.open(shop / "data").token_names == ["encoder"]
    assert TokenSource.stored(PreparedDataset.open(shop / "data"), "encoder").known_form().backbone == str(
        shop / "encoder"
    )
    again = {"backbone": str(shop / "encoder"), "training": TRAINING, "resume": True}
    assert finetune("recformer", shop / "data", shop / "reader", shape, **again).run == str(shop / "reader")


def test_the_file_of_a_run_repeats_it_from_any_directory(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=8)
    finetune("sasrec-text", shop / "data", shop / "first", transformer=small, training=TRAINING)
    finetune("sasrec-text", shop / "data", shop / "run", from_=shop / "first", transformer=small, training=TRAINING)
    monkeypatch.chdir(tmp_path)
    words = ["finetune", "sasrec-text", str(shop / "data"), "--config", str(shop / "run" / "run.yaml")]
    with pytest.raises(SystemExit, match="0"):
        main([*words, "-o", str(shop / "again")])
    assert read_settings(shop / "again")["from"]["folder"] == str(shop / "first")


def test_a_run_of_an_earlier_version_with_absolute_paths_opens(shop: Path) -> None:
    small = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=8)
    finetune("sasrec-text", shop / "data", shop / "run", transformer=small, training=TRAINING)
    for file, key, place in (("settings.json", "data", "data"), ("encoder.json", "encoder", "encoder")):
        content = json.loads((shop / "run" / file).read_text())
        (shop / "run" / file).write_text(json.dumps({**content, key: str(shop / place)}))
    unseal(shop / "run")  # such a run has no seal
    evaluate(shop / "run")
    again = finetune("sasrec-text", shop / "data", shop / "run", transformer=small, training=TRAINING, resume=True)
    assert again.run == str(shop / "run")
    vector_of_new_item(load_model(shop / "run"))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that an encoder was loaded from; loading takes a while."""
    found: list[Path] = []
    load = linguarec.text.encoders._load_model

    def counted(folder: Path, *arguments: Any) -> Any:
        found.append(folder)
        time.sleep(0.1)
        return load(folder, *arguments)

    monkeypatch.setattr(linguarec.text.encoders, "_load_model", counted)
    return found


def in_threads(number: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work` gives for 0, 1, ..., all at once."""
    start = threading.Barrier(number)

    def run(thread: int) -> Any:
        start.wait()
        return work(thread)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


@pytest.mark.parametrize("model", ["sasrec-text", "vqrec"])
def test_threads_that_add_items_at_once_load_the_encoder_once(model: str, shop: Path, loads: list[Path]) -> None:
    small = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=8)
    if model == "vqrec":
        quantize(shop / "data", features="encoder", subvectors=2, centroids=4)
    finetune(model, shop / "data", shop / "run", transformer=small, training=TRAINING)
    recommender = load_model(shop / "run")
    loads.clear()
    added = in_threads(8, lambda n: recommender.add_items([{"raw_id": f"new{n}", "title": "tea " * (n + 1)}]))
    assert added == [1] * 8
    recommender.add_items([{"raw_id": "later", "title": "steel"}])
    assert len(loads) == 1


def test_many_recommenders_load_their_encoders_at_once(shop: Path, loads: list[Path]) -> None:
    small = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=8)
    finetune("sasrec-text", shop / "data", shop / "run", transformer=small, training=TRAINING)
    recommenders = [load_model(shop / "run") for _ in range(8)]
    found = in_threads(8, lambda n: vector_of_new_item(recommenders[n]))
    assert all(np.array_equal(each, found[0]) for each in found)
    assert len(loads) == 8


def test_threads_may_share_an_encoder(encoder: Path) -> None:
    shared = TextEncoder.load(str(encoder))
    texts = [["tea towel " * (n + 1)] * 50 for n in range(8)]
    expected = [shared.encode(each) for each in texts]
    for found, wanted in zip(in_threads(8, lambda n: shared.encode(texts[n])), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
