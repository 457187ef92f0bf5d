"""A file of the released code to the model that it holds, and back.

Sizes are read from the tensors. What tensors cannot tell (heads, temperature, dropout, epsilon) comes from the settings that
the file carries, pickled, or from settings given beside it. Both name things as the released code does; tables translate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linguarec.errors import CheckpointMismatchError
from linguarec.files import writing_file
from linguarec.hub.pretrained import ModelDescription
from linguarec.hub.released import ReleasedWeights, from_released, to_released
from linguarec.hub.unpickling import Record, unpickle
from linguarec.models import MODELS
from linguarec.models.shape import CatalogueShape
from linguarec.nn.encoders import TransformerConfig

# Released setting -> our field.
ENCODER_FIELDS = {
    "hidden_size": "hidden_size",
    "n_layers": "layers",
    "n_heads": "heads",
    "inner_size": "inner_size",
    "hidden_dropout_prob": "dropout",
    "attn_dropout_prob": "attention_dropout",
    "MAX_ITEM_LIST_LENGTH": "max_length",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
MODEL_FIELDS = {
    "n_exps": "experts",
    "adaptor_dropout_prob": "adaptor_dropout",
    "temperature": "temperature",
    "lambda": "sequence_contrast",
}
SHAPE_FIELDS = {"plm_size": "feature_width", "code_dim": "code_books", "code_cap": "centroids"}


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """What a file of the released code holds.

    `settings`: those that are plain values, under their released names. `not_made`: classes that its pickle names and that were
    not made (see `linguarec.hub.unpickling`). `epoch`: of its training, None = not told.
    """

    file: Path
    weights: ReleasedWeights
    settings: dict[str, Any]
    not_made: list[str]
    epoch: int | None


@dataclass(frozen=True)
class ReleasedFile:
    """A file of the released code, of whatever model: its `state` dict and what else it holds; `not_made` as above."""

    file: Path
    state: dict[str, Any]
    content: dict[str, Any]
    not_made: list[str]


def read_released(file: Path) -> ReleasedFile:
    """Read a file with a state dict, alone or under `state_dict`; nothing in it is run.

    Raises:
        CheckpointMismatchError: it cannot be read, or holds none.
    """
    unpickled = unpickle(file)
    content = unpickled.content
    if not isinstance(content, dict):
        raise CheckpointMismatchError(f"{file} holds a {type(content).__name__}, expected a dict with a `state_dict`.")
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointMismatchError(f"{file}: its `state_dict` is {state!r:.80}, expected names and tensors.")
    return ReleasedFile(file, state, content, unpickled.not_made)


def read_checkpoint(file: Path) -> ReleasedCheckpoint:
    """Read a checkpoint of RecBole's SASRec, UniSRec or VQ-Rec; nothing in it is run.

    Raises:
        CheckpointMismatchError: it cannot be read, or is no such checkpoint.
    """
    return recbole_checkpoint(read_released(file))


def recbole_checkpoint(released: ReleasedFile) -> ReleasedCheckpoint:
    """`read_checkpoint` for a file that is read already.

    Raises:
        CheckpointMismatchError: it is no such checkpoint.
    """
    settings = _plain_settings(released.content.get("config"))
    try:
        weights = from_released(released.state)
    except CheckpointMismatchError as error:
        raise CheckpointMismatchError(f"{released.file}: {error}") from error
    epoch = released.content.get("epoch")
    return ReleasedCheckpoint(
        released.file, weights, settings, released.not_made, epoch if isinstance(epoch, int) else None
    )


def describe(checkpoint: ReleasedCheckpoint, given: Mapping[str, Any]) -> tuple[ModelDescription, dict[str, Any]]:
    """The model of a checkpoint without a catalogue (`num_items` is that of its own items, or 0), and what was assumed.

    Args:
        checkpoint: as read.
        given: released settings from elsewhere; they win over those of the file.

    Returns:
        The description, and the settings that nobody told, by their released names, with the published values taken for them.

    Raises:
        CheckpointMismatchError: settings contradict the tensors, are missing or cannot be met; all of them are named.
    """
    weights, settings = checkpoint.weights, {**checkpoint.settings, **given}
    problems = [
        f"{name}: the tensors say {size}, the settings {settings[name]!r}"
        for name, size in weights.sizes.items()
        if settings.get(name) not in (None, size)
    ]
    if settings.get("n_heads") is None:
        problems.append(
            "n_heads: no tensor tells the number of attention heads; give it by --heads or --released-config"
        )
    if settings.get("hidden_act", "gelu") != "gelu":
        problems.append(f"hidden_act: {settings['hidden_act']!r}; the Transformer here has gelu only")
    config = MODELS[weights.form.model].config
    known = {field.name for field in fields(config)}
    model_fields = {theirs: ours for theirs, ours in MODEL_FIELDS.items() if ours in known}
    told = {**settings, **weights.sizes}
    for name in (*ENCODER_FIELDS, *model_fields):
        value = told.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            problems.append(f"{name}: expected a number, found {value!r}")
        elif name == "n_heads" and isinstance(value, float):
            problems.append(f"n_heads: expected a whole number, found {value!r}")
        elif name in ("n_heads", "temperature") and value is not None and value <= 0:
            problems.append(f"{name}: expected more than 0, found {value!r}")
        elif name == "n_heads" and value is not None and told["hidden_size"] % value:
            problems.append(f"n_heads: {value!r} does not divide the hidden size {told['hidden_size']}")
    if problems:
        raise CheckpointMismatchError(f"{checkpoint.file} cannot be converted:\n" + "\n".join(problems))

    def chosen(names: Mapping[str, str]) -> dict[str, Any]:
        return {ours: told[theirs] for theirs, ours in names.items() if told.get(theirs) is not None}

    description = ModelDescription(
        weights.form.model,
        config(**chosen(model_fields)),
        TransformerConfig(**chosen(ENCODER_FIELDS)),
        CatalogueShape(
            weights.num_items or 0, **{ours: weights.sizes.get(name) for name, ours in SHAPE_FIELDS.items()}
        ),
    )
    assumed = {
        name: value
        for name, value in released_settings(description).items()
        if told.get(name) is None and name in (*ENCODER_FIELDS, *model_fields)
    }
    return description, assumed


def released_settings(description: ModelDescription) -> dict[str, Any]:
    """The settings of a model under their released names."""
    assert description.encoder is not None
    ours = asdict(description.shape) | asdict(description.config) | asdict(description.encoder)
    names = {**ENCODER_FIELDS, **MODEL_FIELDS, **SHAPE_FIELDS}
    settings = {theirs: ours[name] for theirs, name in names.items() if ours.get(name) is not None}
    return {"attn_dropout_prob": settings.get("hidden_dropout_prob"), **settings}


def write_checkpoint(
    file: Path,
    description: ModelDescription,
    tensors: Mapping[str, Tensor],
    carried: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    epoch: int | None,
) -> dict[str, Tensor]:
    """Write a model as the released code does, with plain settings, so that `torch.load(weights_only=True)` reads it.

    Args:
        file: to write, atomically.
        description: of the model.
        tensors: its state dict.
        carried: what `from_released` carried along, or nothing.
        settings: further released settings; those of `description` win over them.
        epoch: to be named in the file.

    Returns:
        The state dict as written.

    Raises:
        CheckpointMismatchError: the released code has no such model.
    """
    state = to_released(description.name, tensors, carried, description.shape.code_books)
    config = {"hidden_act": "gelu", "loss_type": "CE", **settings, **released_settings(description)}
    content = {"config": config, "epoch": epoch or 0, "state_dict": state, "optimizer": {}}
    with writing_file(file) as temporary:
        torch.save(content, temporary)
    return state


def _plain_settings(config: Any) -> dict[str, Any]:
    """The plain values of a pickled config: a dict, RecBole's `Config`, or another object with its settings as attributes."""
    if isinstance(config, Record):
        config = config.state
        if isinstance(config, dict):
            config = config.get("final_config_dict", config)
    if not isinstance(config, dict):
        return {}
    return {key: value for key, value in config.items() if isinstance(key, str) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, str | int | float)
