"""A Recformer that starts from a language model gives, before any training, what that model gives."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from linguarec.batching.batches import TokenBatch
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.recformer.backbone import check_vocabulary, recformer_from_backbone
from linguarec.text.attributes import AttributeTokenizer
from linguarec.text.references import find_encoder

MINILM = "all-MiniLM-L6-v2"


def token_batch(rows: list[list[int]]) -> TokenBatch:
    """The ids as inputs of Recformer: keys and values by turns, items of three tokens."""
    places = [torch.arange(len(row)) for row in rows]
    lengths = torch.tensor([0, *map(len, rows)])
    return TokenBatch(
        torch.tensor([token for row in rows for token in row]),
        torch.cat([(place > 0) * (1 + place % 2) for place in places]),
        torch.cat([((place + 2) // 3).clamp(max=7) for place in places]),
        lengths.cumsum(0),
    )


def random_ids(lengths: list[int], vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, vocabulary, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def test_minilm_within_one_window_gives_the_states_of_bert() -> None:
    from transformers import AutoModel

    bert = AutoModel.from_pretrained(find_encoder(MINILM)).eval()
    model = recformer_from_backbone(MINILM, window=512).eval()
    assert (model.config.layers, model.config.heads, model.config.hidden_size) == (6, 12, 384)
    rows = random_ids([40, 3, 200, 1], 30522)
    batch = token_batch(rows)
    states, pooled = model.states(batch), model.encode(batch)
    for row, ids in enumerate(rows):
        expected = bert(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(states[batch.offsets[row] : batch.offsets[row + 1]], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(pooled[row], expected[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_positions_are_repeated_and_new_tables_change_nothing() -> None:
    model = recformer_from_backbone(MINILM, window=8, max_tokens=1100, max_items=7)
    table = model.position.weight
    assert len(table) == 1100
    assert torch.equal(table[512:1024], table[:512])
    assert torch.equal(table[1024:], table[:76])
    assert model.item_position.weight.shape == (8, 384)
    assert not model.item_position.weight.any()
    assert (model.token_type.weight == model.token_type.weight[0]).all()
    attention = model.layers[3].attention
    local = attention.query_key_value.weight.chunk(3)
    for projection, part in zip(("query", "key", "value"), local, strict=True):
        assert torch.equal(getattr(attention, f"global_{projection}").weight, part)
    long = token_batch(random_ids([1100], 30522))
    assert torch.isfinite(model.eval().encode(long)).all()
    with pytest.raises(ValueError, match="a sequence has 1101 tokens, the table of positions has room for 1100"):
        model.encode(token_batch(random_ids([1101], 30522)))


def test_a_missing_language_head_begins_with_the_word_embeddings() -> None:
    assert recformer_from_backbone(MINILM).language_head is None
    head = recformer_from_backbone(MINILM, language_head=True)
    assert head.language_head is not None
    assert torch.equal(head.language_head.words.weight, head.word.weight)
    assert head.language_head.words.weight is not head.word.weight


def small_longformer(folder: Path) -> Any:
    from transformers import LongformerConfig, LongformerForMaskedLM

    torch.manual_seed(0)
    config = LongformerConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=70,
        attention_window=[6, 6, 6],
        type_vocab_size=1,
        pad_token_id=1,
    )
    theirs = LongformerForMaskedLM(config).eval()
    for name, parameter in theirs.named_parameters():
        if "LayerNorm" not in name and "layer_norm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(folder)
    return theirs


@torch.no_grad()
def test_longformer_in_many_windows_with_its_language_head(tmp_path: Path) -> None:
    theirs = small_longformer(tmp_path)
    assert recformer_from_backbone(str(tmp_path), max_tokens=68).config.window == 64  # not that of the language model
    model = recformer_from_backbone(str(tmp_path), window=6, max_tokens=68, language_head=True).eval()
    assert (model.config.window, model.config.first_position) == (6, 2)
    rows = random_ids([67, 5, 12, 1, 31], 60)
    batch = token_batch(rows)
    assert model.language_head is not None
    logits = model.language_head(model.states(batch))
    for row, ids in enumerate(rows):
        globally = torch.zeros(1, len(ids))
        globally[0, 0] = 1
        expected: Tensor = theirs(torch.tensor([ids]), global_attention_mask=globally).logits[0]
        found = logits[batch.offsets[row] : batch.offsets[row + 1]]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_roberta_within_one_window(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=40, type_vocab_size=1,
    )  # fmt: skip
    theirs = RobertaModel(config).eval()
    theirs.save_pretrained(tmp_path)
    model = recformer_from_backbone(str(tmp_path), window=64, max_tokens=100).eval()
    ids = random_ids([33], 60)
    expected = theirs(torch.tensor(ids)).last_hidden_state[0]
    torch.testing.assert_close(model.states(token_batch(ids)), expected, atol=1e-4, rtol=1e-4)
    table = model.position.weight
    assert len(table) == 102
    assert torch.equal(table[40:78], table[2:40])


def test_backbones_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no encoder 'no-such-model'"):
        recformer_from_backbone("no-such-model")
    folder = tmp_path / "copy"
    shutil.copytree(find_encoder(MINILM), folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "t5"}))
    with pytest.raises(
        CheckpointMismatchError, match="holds a 't5' model; a Recformer starts from one of: bert, longformer"
    ):
        recformer_from_backbone(str(folder))
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_act": "relu", "num_attention_heads": 5}))
    with pytest.raises(CheckpointMismatchError, match="hidden_act is 'relu'; this model computes gelu"):
        recformer_from_backbone(str(folder))
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointMismatchError, match="cannot be read"):
        recformer_from_backbone(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointMismatchError, match="holds no weights"):
        recformer_from_backbone(str(folder))


def test_weights_that_do_not_fit_their_settings_are_refused_by_name(tmp_path: Path) -> None:
    small_longformer(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    inner = "longformer.encoder.layer.1.intermediate.dense.weight"
    save_file(tensors | {inner: torch.zeros(39, 24)}, file)
    found = (
        r"^The weights in .* do not fit its config.json:\nlayers.1.inner.weight: shape \(39, 24\), expected \(40, 24\)$"
    )
    with pytest.raises(CheckpointMismatchError, match=found):
        recformer_from_backbone(str(tmp_path))
    del tensors[inner], tensors["longformer.embeddings.LayerNorm.bias"]
    save_file(tensors, file)
    lacking = r"lacks: embeddings\.LayerNorm\.bias, encoder\.layer\.1\.intermediate\.dense\.weight\.$"
    with pytest.raises(CheckpointMismatchError, match=lacking):
        recformer_from_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("left_out", "told"),
    [
        ("position_embeddings", r"lacks: embeddings\.position_embeddings\.weight\.$"),
        ("token_type_embeddings", r"lacks: embeddings\.token_type_embeddings\.weight\.$"),
        ("layer.0.intermediate", r"lacks: encoder\.layer\.0\.intermediate\.dense\.weight, .*dense\.bias\.$"),
        ("layer.0.attention.self.key.", r"query_key_value\.weight: shape \(48, 24\), expected \(72, 24\)"),
        ("layer.2.", r"num_hidden_layers is 3, the tensors say 2\.$"),
    ],
)
def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path: Path, left_out: str, told: str) -> None:
    small_longformer(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if left_out not in name}, file)
    with pytest.raises(CheckpointMismatchError, match=told):
        recformer_from_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("vocab_size", 61, "vocab_size is 61, the tensors say 60"),
        ("hidden_size", 999, "hidden_size is 999, the tensors say 24"),
        ("layer_norm_eps", None, "layer_norm_eps is None; expected a number, 0 or more"),
        ("initializer_range", -1, "initializer_range is -1; expected a number, 0 or more"),
        ("pad_token_id", None, "pad_token_id is None; expected a whole number"),
    ],
)
def test_settings_of_no_use_are_refused(tmp_path: Path, setting: str, value: Any, told: str) -> None:
    small_longformer(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {setting: value}))
    with pytest.raises(CheckpointMismatchError, match=told):
        recformer_from_backbone(str(tmp_path))


@pytest.mark.parametrize("content", [b"junk", pickle.dumps(len), [1, 2]])
def test_weights_that_are_none_are_refused(tmp_path: Path, content: Any) -> None:
    small_longformer(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    file = tmp_path / "pytorch_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointMismatchError, match=r"pytorch_model\.bin"):
        recformer_from_backbone(str(tmp_path))


def test_a_tokenizer_with_more_tokens_than_the_model_has_words_is_refused(tmp_path: Path) -> None:
    small_longformer(tmp_path)
    form = AttributeTokenizer.load(MINILM).form
    check_vocabulary(form, recformer_from_backbone(MINILM).config)
    with pytest.raises(CheckpointMismatchError, match="knows 30,522 tokens, the model has 60 word embeddings"):
        check_vocabulary(form, recformer_from_backbone(str(tmp_path), max_tokens=60).config)
