"""Encoders from elsewhere run no code of their own, and are found by their weights where a run was moved to."""

import io
import json
import sys
from pathlib import Path

import pytest

from linguarec.errors import SettingsError
from linguarec.text.encoders import TextEncoder
from linguarec.text.references import fast_tokenizer

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
