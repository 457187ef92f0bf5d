"""Files that would hang the program or take all memory are refused in one sentence."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from linguarec.codes.codebook import CodeBook
from linguarec.codes.faiss_index import read_faiss_index
from linguarec.commands.finetune import finetune
from linguarec.commands.prepare import prepare_table
from linguarec.data.splitting import SplitSettings, write_splits
from linguarec.errors import CheckpointMismatchError, DataFormatError, LinguarecError
from linguarec.families.opening import open_model
from linguarec.families.weights import load_weights
from linguarec.nn.encoders import TransformerConfig
from linguarec.regular import check_regular
from linguarec.text.encoders import TextEncoder
from linguarec.text.references import weights_fingerprint
from linguarec.text.token_store import open_tokens
from linguarec.training.fit import _check_checkpoint
from linguarec.training.module import Stage
from linguarec.training.settings import TrainingSettings
from linguarec.unpickling import unpickle


def test_a_fifo_a_device_and_a_socket_are_refused_before_they_are_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as served:
        served.bind("socket")
    for name, kind in {"fifo": "a FIFO", "socket": "a socket", "/dev/zero": "a device"}.items():
        with pytest.raises(DataFormatError, match=f"{name} is {kind}, not a regular file"):
            check_regular(Path(name), DataFormatError)


def test_files_folders_links_and_nothing_pass(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link", ".", "nothing", "file/below"):
        check_regular(tmp_path / name, CheckpointMismatchError)


SMALL = TransformerConfig(hidden_size=8, inner_size=8, layers=1, max_length=10)


@pytest.fixture
def run(make_dataset: Any, tmp_path: Path) -> Path:
    data = make_dataset([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0], [2, 3, 4, 0, 1]])
    training = TrainingSettings(max_epochs=1, accelerator="cpu")
    finetune("sasrec", data.path, tmp_path / "run", transformer=SMALL, training=training)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        ("encoder", {"layers": 10**7}),
        ("encoder", {"hidden_size": 10**9}),
        ("encoder", {"inner_size": 10**9}),
        ("encoder", {"max_length": 2**62}),
        ("encoder", {"hidden_size": 500, "inner_size": 500}),
        ("shape", {"num_items": 10**12}),
        ("shape", {"num_items": 2**62}),
    ],
)
def test_a_description_of_a_network_larger_than_its_weights(run: Path, group: str, changes: dict[str, int]) -> None:
    described = json.loads((run / "config.json").read_text())
    described[group] |= changes
    (run / "config.json").write_text(json.dumps(described))
    started = time.perf_counter()
    with pytest.raises(CheckpointMismatchError, match=r"config\.json|model\.safetensors does not fit the model"):
        open_model(run)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 10**7}, {"hidden_size": 10**9}, {"vocab_size": 10**10}])
def test_an_encoder_larger_than_its_weights(tmp_path: Path, changes: dict[str, int]) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "tea"]))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"vocab_size": 6, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, intermediate_size=8, max_position_embeddings=12)).save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**described, **changes}))
    with pytest.raises(CheckpointMismatchError, match=rf"config\.json states {next(iter(changes))} 1"):
        TextEncoder.load(str(tmp_path))


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "released checkpoint": ("file.pth", unpickle),
    "weights": ("model.safetensors", lambda file: load_weights(torch.nn.Linear(1, 1), file)),
    "log": ("log.csv", lambda file: prepare_table(file, file.parent / "out")),
    "packed log": ("log.csv.gz", lambda file: prepare_table(file, file.parent / "out")),
    "log in Parquet": ("log.parquet", lambda file: prepare_table(file, file.parent / "out")),
    "weights of an encoder": ("model.safetensors", lambda file: weights_fingerprint(file.parent)),
    "codebook": ("book.npz", CodeBook.load),
    "faiss index": ("items.index", lambda file: read_faiss_index(file, encoder="unknown")),
    "tokens": ("tokens.json", lambda file: open_tokens(file.parent, "")),
    "array of tokens": ("ids.npy", lambda file: open_tokens(file.parent, "")),
    "checkpoint": ("last.ckpt", lambda file: _check_checkpoint(file, Stage.__new__(Stage))),
}


@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits_for_a_fifo(name: str, tmp_path: Path) -> None:
    file_name, read = READERS[name]
    if file_name == "ids.npy":
        (tmp_path / "tokens.json").write_text(
            json.dumps({"format_version": 1, "fingerprint": "", "counts": {}, "backbone": "b", "tokenizer_sha256": "",
                        "vocabulary": 1, "start": 0, "mask": None, "attributes": [], "attribute_tokens": 1, "text_rules": ""})
        )  # fmt: skip
    os.mkfifo(tmp_path / file_name)
    with pytest.raises(LinguarecError, match=f"{file_name} is a FIFO, not a regular file"):
        read(tmp_path / file_name)


def test_a_prepared_folder_with_a_fifo(make_dataset: Any) -> None:
    folder = make_dataset([[0, 1, 2], [2, 1, 0]]).path
    for name in ("sequences/items.npy", "sequences/offsets.npy"):
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(LinguarecError, match="is a FIFO, not a regular file"):
            write_splits(folder, 3, SplitSettings(held_out_share=0.1, seed=0))
        (folder / name).unlink()
        (folder / name).write_bytes(whole)


def test_of_a_table_of_many_columns_only_those_named_are_read(tmp_path: Path) -> None:
    """40,000 columns took 100 seconds, all but a few in expressions of columns that nobody asked for."""
    log = "user_id,item_id,timestamp\n" + "".join(
        f"u{user},i{item},{1_500_000_000 + item}\n" for user in range(6) for item in range(6)
    )
    (tmp_path / "log.csv").write_text(log)
    columns = {f"c{number}": ["x"] * 6 for number in range(40_000)}
    table = pa.table({"item_id": [f"i{item}" for item in range(6)], **columns, 'a "quoted" name': ["y"] * 6})
    pq.write_table(table, tmp_path / "items.parquet", use_dictionary=False, write_statistics=False)
    started = time.perf_counter()
    with pytest.raises(
        DataFormatError, match=r"has 40,001 columns beside 'item_id'.*at most 1,000; name .*--attributes"
    ):
        prepare_table(tmp_path / "log.csv", tmp_path / "out", tmp_path / "items.parquet")
    assert not (tmp_path / "out").exists()
    names = ["c39999", 'a "quoted" name']
    found = prepare_table(tmp_path / "log.csv", tmp_path / "out", tmp_path / "items.parquet", attributes=names)
    assert found.attributes == names
    assert time.perf_counter() - started < 60
