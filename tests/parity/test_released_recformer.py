"""The released Recformer, converted, gives the released vectors, scores and losses, and goes back as it came."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from linguarec.batching.batches import ItemBatch, MaskedPairs, SequenceBatch, TokenBatch, TokenPairs
from linguarec.errors import CheckpointMismatchError
from linguarec.families.recformer.model import Recformer
from linguarec.families.recformer.released_tensors import (
    from_released_recformer,
    recformer_config,
    to_released_recformer,
)

FILES = {"recformer_seqrec": "recformer_seqrec_ckpt.bin", "recformer_pretrain": "pytorch_model.bin"}


def released_state(released_outputs: Path, name: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(released_outputs / name / FILES[name], weights_only=True)
    return state


def released_settings(released_outputs: Path, name: str) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((released_outputs / name / "config.json").read_text(encoding="utf-8"))
    return settings


def converted(released_outputs: Path, name: str) -> tuple[Recformer, dict[str, Tensor]]:
    folder = released_outputs / name
    tensors = from_released_recformer(released_state(released_outputs, name)).tensors
    settings = released_settings(released_outputs, name)
    model = Recformer(recformer_config(settings, tensors, str(folder)))
    model.load_state_dict(tensors)
    return model.eval(), load_file(folder / "io.safetensors")


def ragged(io: dict[str, Tensor], name: str) -> TokenBatch:
    """The recorded padded inputs without their padding; `name` holds a place for the kind, as in "seq.{}"."""
    real = io[name.format("attention_mask")].bool()
    offsets = torch.cat([torch.zeros(1).long(), real.sum(1).cumsum(0)])
    kinds = ("input_ids", "token_type_ids", "item_position_ids")
    return TokenBatch(*(io[name.format(kind)][real] for kind in kinds), offsets)


@torch.no_grad()
def test_vectors_scores_and_loss_of_the_fine_tuned_model(released_outputs: Path) -> None:
    model, io = converted(released_outputs, "recformer_seqrec")
    settings = released_settings(released_outputs, "recformer_seqrec")
    assert [model.config.window] * model.config.layers == settings["attention_window"]
    histories, items = ragged(io, "seq.{}"), ragged(io, "item.{}")
    assert histories.lengths.max() > 7 * model.config.window  # many windows
    torch.testing.assert_close(model.encode(histories), io["pooled"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode(items), io["item_embeddings"], atol=1e-5, rtol=1e-5)
    rows, nobody = torch.arange(len(items)), torch.zeros(len(items)).long()
    keys = model.item_keys(ItemBatch(rows, nobody, tokens=items))
    none = torch.empty(0).long()
    people = torch.zeros(len(histories)).long()
    batch = SequenceBatch(none, people, none, io["labels"], people, people, histories)
    torch.testing.assert_close(model.queries(batch) @ keys.T, io["scores"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.finetune_loss(batch, keys), io["loss"][0], atol=1e-4, rtol=0)


def masked(io: dict[str, Tensor], side: str) -> tuple[TokenBatch, Tensor]:
    real = io[f"attention_mask_{side}"].bool()
    plain = ragged(io, "{}_" + side)
    labels = io[f"mlm_labels_{side}"][real]
    return (
        TokenBatch(io[f"mlm_input_ids_{side}"][real], plain.types, plain.item_positions, plain.offsets),
        labels.masked_fill(labels == -100, -1),
    )


@torch.no_grad()
def test_losses_of_pre_training(released_outputs: Path) -> None:
    model, io = converted(released_outputs, "recformer_pretrain")
    weight = released_settings(released_outputs, "recformer_pretrain")["mlm_weight"]
    histories, targets = ragged(io, "{}_a"), ragged(io, "{}_b")
    (masked_histories, history_labels), (masked_targets, target_labels) = masked(io, "a"), masked(io, "b")
    pairs = TokenPairs(
        histories,
        targets,
        torch.arange(len(histories)),
        torch.arange(len(histories)),
        MaskedPairs(masked_histories, masked_targets, history_labels, target_labels),
    )
    contrast, masked_words = model.pretrain_losses(pairs)
    assert masked_words is not None
    torch.testing.assert_close(contrast, io["loss_item_item"][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(contrast + weight * masked_words, io["loss"][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.pretrain_loss(pairs), io["loss"][0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FILES)
def test_weights_go_back_as_they_came(released_outputs: Path, name: str) -> None:
    state = released_state(released_outputs, name)
    back = to_released_recformer(from_released_recformer(state).tensors)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("prefix", ["_forward_module.model.", "model.", "module."])
def test_other_prefixes_and_word_embeddings_from_elsewhere(released_outputs: Path, prefix: str) -> None:
    state = released_state(released_outputs, "recformer_pretrain")
    expected = from_released_recformer(state).tensors
    words = state.pop("longformer.embeddings.word_embeddings.weight")
    renamed = {prefix + key: tensor for key, tensor in state.items()}
    with pytest.raises(CheckpointMismatchError, match="--word-embeddings FILE"):
        from_released_recformer(renamed)
    found = from_released_recformer(renamed, words).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_bare_names_item_vectors_and_foreign_keys(released_outputs: Path) -> None:
    state = released_state(released_outputs, "recformer_seqrec")
    bare = {key.removeprefix("longformer."): tensor for key, tensor in state.items()}
    width = released_settings(released_outputs, "recformer_seqrec")["hidden_size"]
    found = from_released_recformer(bare | {"item_embedding.weight": torch.zeros(2, width)})
    assert found.left_out == ["embeddings.position_ids", "item_embedding.weight"]
    assert torch.equal(found.tensors["position.weight"], state["longformer.embeddings.position_embeddings.weight"])
    with pytest.raises(CheckpointMismatchError, match=r"keys that no Recformer.*\ndecoder\.wte"):
        from_released_recformer(bare | {"decoder.wte": torch.zeros(1)})
    with pytest.raises(CheckpointMismatchError, match="has no layers"):
        from_released_recformer({"weight": torch.zeros(1)})


def test_what_tensors_cannot_tell_is_asked_for(released_outputs: Path) -> None:
    tensors = from_released_recformer(released_state(released_outputs, "recformer_seqrec")).tensors
    with pytest.raises(
        CheckpointMismatchError, match=r"num_attention_heads is None; expected.*differs between layers: \[8, 4\]"
    ):
        recformer_config({"attention_window": [8, 4]}, tensors, "X")
    settings = released_settings(released_outputs, "recformer_seqrec")
    heads = settings["num_attention_heads"]
    config = recformer_config({"num_attention_heads": heads, "attention_window": [8, 4]}, tensors, "X", window=16)
    told = (settings["num_hidden_layers"], settings["vocab_size"], settings["max_item_embeddings"] - 1)
    assert (config.window, config.layers, config.vocabulary, config.max_items) == (16, *told)
