"""Initialises a Recformer from a language model: any BERT-, RoBERTa- or Longformer-like checkpoint folder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.recformer.model import TOKEN_TYPES, Recformer, RecformerConfig
from linguarec.families.recformer.released_tensors import (
    WITH_PADDING_POSITIONS,
    from_released_recformer,
    recformer_config,
)
from linguarec.families.released import read_released
from linguarec.stored import read_json
from linguarec.text.attributes import SentenceForm
from linguarec.text.references import WEIGHT_FILES, find_encoder

FETCH = "Fetch the folder again."
MODEL_TYPES = ("bert", *WITH_PADDING_POSITIONS)


def recformer_from_backbone(
    backbone: str,
    window: int = 64,
    max_tokens: int = 1024,
    max_items: int = 50,
    language_head: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Recformer:
    """A Recformer with the weights of a language model, in training mode.

    Before any training its states equal those of the language model (exactly if the window spans the whole input).
    Copied: word embeddings, layers, LayerNorms, and token positions, which are repeated if `max_tokens` needs more;
    global projections (from the local ones if the checkpoint has none); all token types, from the one that the language model
    used; the LM head (its word vectors from the word embeddings if the checkpoint has none). Zero: item positions. Drawn from
    torch's default generator: the rest of a missing LM head.

    Args:
        backbone: a name or folder, as in `find_encoder`.
        window: tokens that a token attends to; that of the language model (Longformer: 512) is ignored, as published.
        max_tokens: longest input.
        max_items: longest history.
        language_head: whether the model gets the LM head, which pre-training needs.
        changes: settings of the model that differ from the checkpoint's; not those that decide sizes of tensors.

    Raises:
        SettingsError: this machine has no such backbone, or the changes are impossible.
        CheckpointMismatchError: it is another type of model, or its files do not fit together.
    """
    folder = find_encoder(backbone)
    settings = read_json(folder / "config.json", CheckpointMismatchError, FETCH)
    if settings.get("model_type") not in MODEL_TYPES:
        raise CheckpointMismatchError(
            f"{folder} holds a {settings.get('model_type')!r} model; a Recformer starts from one of: {', '.join(MODEL_TYPES)}."
        )
    try:
        tensors = from_released_recformer(_read_weights(folder)).tensors
    except CheckpointMismatchError as error:
        raise error if str(folder) in str(error) else CheckpointMismatchError(f"{folder}: {error}") from error
    if language_head:
        tensors.setdefault("language_head.words.weight", tensors["word.weight"])
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("language_head.")}
    config = recformer_config(settings, tensors, str(folder), window, max_tokens, max_items)
    try:
        config = replace(config, language_head=language_head, **changes)
    except ValueError as error:
        raise SettingsError([f"--model.* with the backbone {backbone}: {error}"]) from error
    for layer in range(config.layers):
        attention = f"layers.{layer}.attention"
        for kind in ("weight", "bias"):
            local = tensors[f"{attention}.query_key_value.{kind}"].chunk(3)
            for projection, part in zip(("query", "key", "value"), local, strict=True):
                tensors.setdefault(f"{attention}.global_{projection}.{kind}", part)
    types = tensors["token_type.weight"]
    if len(types) != TOKEN_TYPES:  # a language model, which used type 0 for all tokens
        tensors["token_type.weight"] = types[:1].expand(TOKEN_TYPES, -1)
    tensors["position.weight"] = extended_positions(tensors["position.weight"], config.first_position, config.positions)
    items = torch.zeros(max_items + 1, config.hidden_size)
    known = tensors.get("item_position.weight", items)[: max_items + 1]
    items[: len(known)] = known
    tensors["item_position.weight"] = items

    model = Recformer(config)
    state = model.state_dict()
    problems = [
        f"{name}: shape {tuple(tensor.shape)}, expected {tuple(state[name].shape) if name in state else 'no such tensor'}"
        for name, tensor in tensors.items()
        if name not in state or tensor.shape != state[name].shape
    ]
    if problems:
        raise CheckpointMismatchError(f"The weights in {folder} do not fit its config.json:\n" + "\n".join(problems))
    model.load_state_dict(state | {name: tensor.float() for name, tensor in tensors.items()})
    return model


def check_vocabulary(form: SentenceForm, config: RecformerConfig) -> None:
    """Refuse item tokens that the model has no word embeddings for.

    Raises:
        CheckpointMismatchError: the tokenizer has more tokens than the model has word embeddings.
    """
    if form.vocabulary > config.vocabulary:
        raise CheckpointMismatchError(
            f"The items were tokenized by {form.backbone}, which knows {form.vocabulary:,} tokens, the model has "
            f"{config.vocabulary:,} word embeddings; tokenize with the backbone that the model was made from."
        )


def extended_positions(table: Tensor, first: int, rows: int) -> Tensor:
    """The table of token positions, with its rows from `first` on repeated up to `rows` rows, as Longformer was made from
    RoBERTa."""
    if len(table) >= rows:
        return table
    body = table[first:]
    repeats = -(-(rows - first) // len(body))
    return torch.cat([table[:first], body.repeat(repeats, 1)])[:rows]


def _read_weights(folder: Path) -> dict[str, Any]:
    """All tensors of a folder in safetensors or PyTorch format."""
    tensors: dict[str, Any] = {}
    files = sorted(folder.glob(WEIGHT_FILES[0])) or sorted(folder.glob(WEIGHT_FILES[1]))
    if not files:
        raise CheckpointMismatchError(f"The folder {folder} holds no weights ({' or '.join(WEIGHT_FILES)}).")
    for file in files:
        try:
            tensors |= load_file(file) if file.suffix == ".safetensors" else read_released(file).state
        except (SafetensorError, OSError) as error:
            raise CheckpointMismatchError(f"{file} cannot be read: {error}. {FETCH}") from error
    return tensors
