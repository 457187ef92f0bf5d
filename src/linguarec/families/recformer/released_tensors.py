"""Renames weights of the released Recformer, and of BERT, RoBERTa and Longformer checkpoints, to linguarec's names.

One table serves all of them and both directions: inside a layer they have the same names. Only the prefix differs:
`longformer.` (`recformer_seqrec_ckpt.bin`), `_forward_module.model.longformer.` (converted from DeepSpeed), none
(`recformer_pretrain_ckpt.bin`), `roberta.`, `bert.`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from linguarec.errors import CheckpointMismatchError
from linguarec.families.recformer.model import RecformerConfig

# Released name -> linguarec's name. Several released tensors with one target are joined along dim 0, in this order.
EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "word.weight",
    "embeddings.position_embeddings.weight": "position.weight",
    "embeddings.token_type_embeddings.weight": "token_type.weight",
    "embeddings.item_position_embeddings.weight": "item_position.weight",
    "embeddings.LayerNorm.weight": "input_norm.weight",
    "embeddings.LayerNorm.bias": "input_norm.bias",
}
OF_LAYER = {
    f"{theirs}.{kind}": f"{ours}.{kind}"
    for theirs, ours in (
        ("attention.self.query", "attention.query_key_value"),
        ("attention.self.key", "attention.query_key_value"),
        ("attention.self.value", "attention.query_key_value"),
        ("attention.self.query_global", "attention.global_query"),
        ("attention.self.key_global", "attention.global_key"),
        ("attention.self.value_global", "attention.global_value"),
        ("attention.output.dense", "attention.output"),
        ("attention.output.LayerNorm", "attention_norm"),
        ("intermediate.dense", "inner"),
        ("output.dense", "outer"),
        ("output.LayerNorm", "outer_norm"),
    )
    for kind in ("weight", "bias")
}
LANGUAGE_HEAD = {
    "lm_head.dense.weight": "language_head.dense.weight",
    "lm_head.dense.bias": "language_head.dense.bias",
    "lm_head.layer_norm.weight": "language_head.norm.weight",
    "lm_head.layer_norm.bias": "language_head.norm.bias",
    "lm_head.decoder.weight": "language_head.words.weight",
    "lm_head.bias": "language_head.words.bias",
}
BERT_LANGUAGE_HEAD = {
    "cls.predictions.transform.dense.weight": "language_head.dense.weight",
    "cls.predictions.transform.dense.bias": "language_head.dense.bias",
    "cls.predictions.transform.LayerNorm.weight": "language_head.norm.weight",
    "cls.predictions.transform.LayerNorm.bias": "language_head.norm.bias",
    "cls.predictions.decoder.weight": "language_head.words.weight",
    "cls.predictions.bias": "language_head.words.bias",
}
# Keys without a counterpart: counters, second names of a tensor, parts that a Recformer does not have, item vectors (data).
LEFT_OUT = re.compile(
    r"embeddings\.position_ids|pooler\..*|cls\.seq_relationship\..*|lm_head\.decoder\.bias|cls\.predictions\.decoder\.bias"
    r"|item_embedding\.weight"
)
PREFIX = re.compile(r"(?:_forward_module\.)?(?:module\.)?(?:model\.)?(?:(?:longformer|roberta|bert)\.)?")
# Key in settings that linguarec writes: attention_window is that of the original Longformer, not of the Recformer.
OWN_WINDOW = "recformer_window"
# Settings that must be numbers if present.
OF_NUMBERS = [
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "layer_norm_eps",
    "temp",
    "mlm_weight",
    "initializer_range",
]
WITH_PADDING_POSITIONS = ("longformer", "roberta", "xlm-roberta", "camembert")  # positions begin after the padding id


@dataclass(frozen=True)
class ReleasedRecformer:
    """`tensors`: under linguarec's names. `left_out`: released keys that are not used."""

    tensors: dict[str, Tensor]
    left_out: list[str]


def from_released_recformer(state: Mapping[str, Tensor], word_embeddings: Tensor | None = None) -> ReleasedRecformer:
    """Rename a released state dict.

    Args:
        state: released names -> tensors.
        word_embeddings: [V, D] for a checkpoint that lacks them, as the released pre-training one does.

    Raises:
        CheckpointMismatchError: a key is not in the table, or there are no word embeddings or two sets of them.
    """
    table = released_names(_num_layers(state)) | {theirs: (ours,) for theirs, ours in BERT_LANGUAGE_HEAD.items()}
    found: dict[str, dict[int, Tensor]] = {}
    left_out, unknown = [], []
    for key, tensor in state.items():
        bare = key[PREFIX.match(key).end() :]  # type: ignore[union-attr]
        if LEFT_OUT.fullmatch(bare):
            left_out.append(key)
        elif bare in table:
            ours, *part = table[bare]
            found.setdefault(ours, {})[part[0] if part else 0] = tensor
        else:
            unknown.append(key)
    if unknown:
        raise CheckpointMismatchError(
            "keys that no Recformer, Longformer, RoBERTa or BERT of the released code has:\n" + "\n".join(unknown)
        )
    if word_embeddings is not None:
        if "word.weight" in found:
            raise CheckpointMismatchError("The checkpoint has word embeddings of its own; leave --word-embeddings out.")
        found["word.weight"] = {0: word_embeddings}
    if "word.weight" not in found:
        raise CheckpointMismatchError(
            "The checkpoint lacks the word embeddings (embeddings.word_embeddings.weight), which the released pre-training "
            "keeps frozen and does not save; give the file of the Longformer it started from with --word-embeddings FILE."
        )
    joined = {name: torch.cat([parts[part] for part in sorted(parts)]) for name, parts in found.items()}
    if "language_head.dense.weight" in joined:  # a tied LM head is saved without its word vectors
        joined.setdefault("language_head.words.weight", joined["word.weight"].clone())
    return ReleasedRecformer(joined, left_out)


def is_recformer(keys: Iterable[str]) -> bool:
    """Whether these are the names of a Recformer, Longformer, RoBERTa or BERT."""
    return any("encoder.layer.0.attention.self.query." in key for key in keys)


def to_released_recformer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the names of `recformer_seqrec_ckpt.bin`, with the LM head of `pytorch_model.bin` if there is one.

    The released model also saves the position ids, and the bias of the LM head twice; all of them are written.
    """
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    released = {}
    for theirs, (ours, *part) in released_names(layers).items():
        if ours in tensors:
            prefix = "" if theirs.startswith("lm_head.") else "longformer."
            tensor = tensors[ours]
            released[prefix + theirs] = (tensor.chunk(3)[part[0]] if part else tensor).clone()
    released["longformer.embeddings.position_ids"] = torch.arange(len(tensors["position.weight"]))[None]
    if "lm_head.bias" in released:
        released["lm_head.decoder.bias"] = released["lm_head.bias"].clone()
    return released


def released_names(layers: int) -> dict[str, tuple[str] | tuple[str, int]]:
    """The table for `layers` layers: released name without prefix -> (new name), or (new name, number of the part of it)."""
    names: dict[str, tuple[str] | tuple[str, int]] = {theirs: (ours,) for theirs, ours in EMBEDDINGS.items()}
    for layer in range(layers):
        for theirs, ours in OF_LAYER.items():
            parts = [key.split(".")[-2] for key, name in OF_LAYER.items() if name == ours]
            full = f"layers.{layer}.{ours}"
            key = f"encoder.layer.{layer}.{theirs}"
            names[key] = (full, parts.index(theirs.split(".")[-2])) if len(parts) > 1 else (full,)
    return names | {theirs: (ours,) for theirs, ours in LANGUAGE_HEAD.items()}


def recformer_config(
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: str,
    window: int | None = None,
    max_tokens: int | None = None,
    max_items: int | None = None,
) -> RecformerConfig:
    """The config of a model with these tensors (renamed); sizes come from the tensors, the rest from `settings`.

    Args:
        settings: content of the `config.json` of a transformers folder or of the released code.
        tensors: the renamed weights; a table of item positions may be missing.
        source: named in errors.
        window: overrides that of the settings, which may lack it (BERT) or differ from what Recformer was trained with.
        max_tokens: likewise.
        max_items: likewise.

    Raises:
        CheckpointMismatchError: settings that the tensors do not show are missing, not supported by this model, or conflict.
    """
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    problems = _missing(tensors, layers)
    if problems:
        raise CheckpointMismatchError(f"{source} cannot become a Recformer; it lacks: {', '.join(problems)}.")
    vocabulary, width = tensors["word.weight"].shape
    inner_size = len(tensors["layers.0.inner.bias"])
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": inner_size,
    }
    problems = [
        f"{name} is {settings[name]!r}, the tensors say {size}"
        for name, size in sizes.items()
        if settings.get(name) not in (None, size)
    ]
    heads = settings.get("num_attention_heads")
    if not is_whole(heads):
        problems.append(f"num_attention_heads is {heads!r}; expected a whole number, tensors cannot tell it")
    for name in ("pad_token_id", "max_token_num"):
        if not is_whole(settings.get(name, 1)):
            problems.append(f"{name} is {settings[name]!r}; expected a whole number")
    for name in OF_NUMBERS:
        value = settings.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            problems.append(f"{name} is {value!r}; expected a number, 0 or more")
    if settings.get("hidden_act", "gelu") != "gelu":
        problems.append(f"hidden_act is {settings['hidden_act']!r}; this model computes gelu")
    if settings.get("position_embedding_type", "absolute") != "absolute":
        problems.append(f"position_embedding_type is {settings['position_embedding_type']!r}; expected absolute")
    if window is None:
        windows = settings.get("attention_window", 64)
        distinct = list(dict.fromkeys(windows)) if isinstance(windows, list) else [windows]
        if not all(map(is_whole, distinct)) or not distinct:
            problems.append(f"attention_window is {windows!r}; expected a whole number, or one for each layer")
            distinct = [64]
        elif len(distinct) > 1:
            problems.append(f"attention_window differs between layers: {windows}; give one with --window")
        window = int(max(distinct))
    if problems:
        raise CheckpointMismatchError(f"{source} cannot become a Recformer: " + "; ".join(problems) + ".")
    assert isinstance(heads, int)
    positions = len(tensors["position.weight"])
    padded = settings.get("model_type") in WITH_PADDING_POSITIONS
    first_position = int(settings.get("pad_token_id", 1)) + 1 if padded else 0
    if max_items is None:
        max_items = len(tensors["item_position.weight"]) - 1 if "item_position.weight" in tensors else 50
    if max_tokens is None:
        max_tokens = min(int(settings.get("max_token_num", 1024)), positions - first_position)
    try:
        return RecformerConfig(
            vocabulary=vocabulary,
            hidden_size=width,
            layers=layers,
            heads=heads,
            inner_size=inner_size,
            window=window,
            max_tokens=max_tokens,
            max_items=max_items,
            positions=max(positions, first_position + max_tokens),
            first_position=first_position,
            dropout=settings.get("hidden_dropout_prob", 0.1),
            attention_dropout=settings.get("attention_probs_dropout_prob", 0.1),
            layer_norm_eps=settings.get("layer_norm_eps", 1e-12),
            temperature=settings.get("temp", 0.05),
            mlm_weight=settings.get("mlm_weight", 0.1),
            language_head="language_head.words.weight" in tensors,
            initializer_range=settings.get("initializer_range", 0.02),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointMismatchError(f"{source} cannot become a Recformer: {error}.") from error


def released_settings(config: RecformerConfig) -> dict[str, Any]:
    """The settings that the tensors do not show, under the names of the released code; `recformer_config` reads them."""
    padded = config.first_position > 0
    return {
        "model_type": "longformer" if padded else "bert",
        "pad_token_id": config.first_position - 1 if padded else 0,
        "num_attention_heads": config.heads,
        "attention_window": config.window,
        OWN_WINDOW: config.window,
        "max_token_num": config.max_tokens,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "temp": config.temperature,
        "mlm_weight": config.mlm_weight,
    }


def is_whole(value: Any) -> bool:
    """Whether a setting is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _missing(tensors: Mapping[str, Tensor], layers: int) -> list[str]:
    """Released names of missing tensors that every language model has."""
    needed = {ours: theirs for theirs, ours in EMBEDDINGS.items() if "item_position" not in ours}
    for theirs, (ours, *_) in released_names(layers).items():
        if ours.startswith("layers.") and ".global_" not in ours:
            needed.setdefault(ours, theirs)
    return [theirs for ours, theirs in needed.items() if ours not in tensors]


def _num_layers(keys: Iterable[str]) -> int:
    found = [int(match[1]) for key in keys if (match := re.search(r"encoder\.layer\.(\d+)\.", key))]
    if not found:
        raise CheckpointMismatchError(
            "The checkpoint has no layers (encoder.layer.0...); expected one of Recformer, Longformer, RoBERTa or BERT."
        )
    return 1 + max(found)
