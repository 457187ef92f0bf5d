"""Options that several families share: the sequence encoder, and freezing it after a start."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from linguarec.errors import SettingsError
from linguarec.families.family import Request
from linguarec.families.start import merge_settings
from linguarec.nn.encoders import ENCODERS, EncoderConfig, GRUConfig, PoolingConfig, TransformerConfig, encoder_kind


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
        pooling: settings of the sequence encoder, if it is pooling
    """

    sequence_encoder: Literal["transformer", "gru", "pooling"] | None = None
    transformer: TransformerConfig | None = None
    gru: GRUConfig | None = None
    pooling: PoolingConfig | None = None


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
    groups: dict[str, EncoderConfig | None] = {name: getattr(options, name) for name in ENCODERS}
    changed = [name for name, group in groups.items() if group is not None and group != type(group)()]
    if start is None:
        kind = kind or "transformer"
        if unread := [name for name in changed if name != kind]:
            asked = {name: "transformer (the default)" if name == "transformer" else name for name in unread}
            raise SettingsError(
                [
                    f"--{name}.*: the sequence encoder is another; ask for --sequence-encoder {asked[name]}"
                    for name in unread
                ]
            )
        return request.config or request.family.config(), groups[kind] or ENCODERS[kind]()
    own = start.description.encoder
    assert own is not None
    own_kind = encoder_kind(own)
    problems = []
    if kind is not None and kind != own_kind:
        problems.append(f"--sequence-encoder {kind}: the one of {start.folder} is a {own_kind}; leave the flag out")
    problems += [
        f"--{name}.*: the sequence encoder of {start.folder} is a {own_kind}" for name in changed if name != own_kind
    ]
    encoder, differing = merge_settings(start, own, groups[own_kind], own_kind)
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
    known = {} if isinstance(options, TransformerOptions) else {"sequence_encoder": kind, **dict.fromkeys(ENCODERS)}
    return replace(options, **{**known, kind: encoder})
