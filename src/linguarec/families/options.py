"""Options that several families share: the sequence encoder, and freezing it after a start."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from linguarec.errors import SettingsError
from linguarec.families.family import Request
from linguarec.families.start import merge_settings
from linguarec.nn.encoders import EncoderConfig, GRUConfig, TransformerConfig, encoder_kind


@dataclass(frozen=True)
class TransformerOptions:
    """The sequence encoder of a family that takes the Transformer alone.

    Args:
        transformer: settings of the sequence encoder
    """

    transformer: TransformerConfig | None = None


@dataclass(frozen=True)
class EncoderOptions:
    """The sequence encoder.

    Args:
        sequence_encoder: encoder of the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
    """

    sequence_encoder: Literal["transformer", "gru"] | None = None
    transformer: TransformerConfig | None = None
    gru: GRUConfig | None = None


def settings_of(request: Request) -> tuple[Any, EncoderConfig]:
    """The settings of the model and of the sequence encoder.

    With a start they are the start's settings, changed by those that the user set (see `linguarec.given`).

    Raises:
        SettingsError: settings do not fit the start's weights; each is named with both values.
        CheckpointMismatchError: the start's folder holds another model.
    """
    options: EncoderOptions | TransformerOptions = request.options
    if isinstance(options, TransformerOptions):
        options = EncoderOptions("transformer", options.transformer)
    start, kind = request.start, options.sequence_encoder
    if start is None:
        unread, given = ("transformer", options.transformer) if kind == "gru" else ("gru", options.gru)
        if given is not None and given != type(given)():
            asked = "gru" if unread == "gru" else "transformer (the default)"
            raise SettingsError([f"--{unread}.*: the sequence encoder is another; ask for --sequence-encoder {asked}"])
        encoder = (options.gru or GRUConfig()) if kind == "gru" else (options.transformer or TransformerConfig())
        return request.config or request.family.config(), encoder
    own = start.description.encoder
    assert own is not None
    own_kind = encoder_kind(own)
    problems = []
    if kind is not None and kind != own_kind:
        problems.append(f"--sequence-encoder {kind}: the one of {start.folder} is a {own_kind}; leave the flag out")
    other_kind, other = ("gru", options.gru) if own_kind == "transformer" else ("transformer", options.transformer)
    if other is not None and other != type(other)():
        problems.append(f"--{other_kind}.*: the sequence encoder of {start.folder} is a {own_kind}")
    asked_for = options.transformer if own_kind == "transformer" else options.gru
    encoder, differing = merge_settings(start, own, asked_for, own_kind)
    merged, also_differing = merge_settings(start, start.description.config, request.config, "model")
    problems += differing + also_differing
    if problems:
        raise SettingsError(problems)
    return merged, encoder


def freeze_encoder(network: nn.Module) -> None:
    """Freeze the sequence encoder except its input LayerNorm, as the released code does."""
    for name, parameter in network.get_submodule("encoder").named_parameters():
        if not name.startswith("input_norm."):
            parameter.requires_grad_(False)


def as_chosen(options: Any, encoder: EncoderConfig) -> Any:
    """The options with the settings of the sequence encoder in use, and None for the others."""
    kind = encoder_kind(encoder)
    both = {"sequence_encoder": kind, "transformer": None, "gru": None}
    known = {} if isinstance(options, TransformerOptions) else both
    return replace(options, **{**known, kind: encoder})
