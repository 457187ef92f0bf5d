"""The ragged networks on padded histories, with the same weights: for export, where shapes must not depend on the lengths.

A family's `queries` is called as it is. Only its encoders are replaced: they get B histories of equal length L, in flat tensors
[B * L], whose places behind the end of a history have the position -1. All is written in operations that ONNX has.
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import SequenceBatch
from linguarec.errors import SettingsError
from linguarec.nn.decoder import Decoder
from linguarec.nn.encoders import GRUEncoder, PoolingEncoder, SelfAttention, TransformerEncoder, TransformerLayer


class PaddedQueries(nn.Module):
    """Queries [B, Dk] of B histories, by the `queries` of `network`.

    Raises:
        SettingsError: an encoder has no padded form.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = with_padded_encoders(network)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Item inputs [B, L, D], zero behind the end, and lengths [B] int64, each from 1 to L -> [B, Dk]."""
        queries: Tensor = self.network.queries(padded_batch(items, lengths), items.flatten(0, 1))  # type: ignore[operator]
        return queries.float()


def padded_batch(items: Tensor, lengths: Tensor) -> SequenceBatch:
    """B sequences of L places each, for item inputs [B, L, D] whose rows are the batch's items; `lengths` [B]."""
    count, longest = items.shape[0], items.shape[1]
    places = torch.arange(longest, device=items.device)
    positions = torch.where(places < lengths[:, None], places, -1).flatten()
    nothing = torch.full_like(lengths, -1)
    return SequenceBatch(
        items=torch.arange(count * longest, device=items.device),
        offsets=torch.arange(count + 1, device=items.device) * longest,
        positions=positions,
        targets=torch.full_like(positions, -1),
        users=nothing,
        domain=nothing,
        only_last=True,
    )


def with_padded_encoders(network: nn.Module) -> nn.Module:
    """A copy of the network that shares its weights and has the padded form of each encoder.

    Raises:
        SettingsError: an encoder has no padded form.
    """
    made = copy.copy(network)
    made._modules = {name: None if part is None else _padded(part) for name, part in network._modules.items()}
    return made


class PaddedTransformer(nn.Module):
    """See `TransformerEncoder`."""

    def __init__(self, encoder: TransformerEncoder) -> None:
        super().__init__()
        self.config = encoder.config
        self.encoder = encoder

    def forward(
        self, inputs: Tensor, positions: Tensor, offsets: Tensor, only_last: bool = False, causal: bool = True
    ) -> Tensor:
        """Inputs and positions [B * L, ...], offsets [B+1] -> states [B * L, D]; with `only_last` [B, D]."""
        return self.states(inputs, positions, offsets, only_last, causal)

    def states(
        self,
        inputs: Tensor,
        positions: Tensor,
        offsets: Tensor,
        only_last: bool,
        causal: bool,
        memory: Tensor | None = None,
    ) -> Tensor:
        """As `forward`; `memory` [B * L, D]: see `TransformerEncoder.states`."""
        places = _by_history(positions, offsets)
        readable = _readable(places, causal)
        tokens = _by_history(_positioned(self.encoder, inputs, positions), offsets)
        memory = None if memory is None else _by_history(memory, offsets)
        for layer in cast(Iterable[TransformerLayer], self.encoder.layers):
            tokens = layer.attention_norm(tokens + _attended(layer.attention, tokens, readable))
            if memory is not None:
                tokens = layer.memory_norm(tokens + layer.memory(memory))
            tokens = layer.outer_norm(tokens + layer.outer(F.gelu(layer.inner(tokens))))
        return _last(tokens, places) if only_last else tokens.flatten(0, 1)


class PaddedDecoder(PaddedTransformer):
    """See `Decoder`."""

    def forward(  # type: ignore[override]  # as of `Decoder`
        self, inputs: Tensor, memory: Tensor, positions: Tensor, offsets: Tensor, only_last: bool = False
    ) -> Tensor:
        """Inputs, memory and positions [B * L, ...], offsets [B+1] -> states [B * L, D]; with `only_last` [B, D]."""
        return self.states(inputs, positions, offsets, only_last, True, memory)


class PaddedPooling(nn.Module):
    """See `PoolingEncoder`; with `only_last` alone."""

    def __init__(self, encoder: PoolingEncoder) -> None:
        super().__init__()
        self.config = encoder.config
        self.encoder = encoder

    def forward(
        self, inputs: Tensor, positions: Tensor, offsets: Tensor, only_last: bool = True, causal: bool = True
    ) -> Tensor:
        """Inputs and positions [B * L, ...], offsets [B+1] -> states [B, D]."""
        there = (_by_history(positions, offsets) >= 0).to(inputs.dtype)[:, :, None]
        means = (_by_history(inputs, offsets) * there).sum(1) / there.sum(1)
        pooled = self.encoder.input_norm(means)
        states: Tensor = self.encoder.outer_norm(pooled + self.encoder.outer(F.gelu(self.encoder.inner(pooled))))
        return states


_PADDED: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    TransformerEncoder: PaddedTransformer,
    PoolingEncoder: PaddedPooling,
    Decoder: PaddedDecoder,
}


def _padded(part: nn.Module) -> nn.Module:
    if isinstance(part, GRUEncoder):
        raise SettingsError(["a GRU has no padded form; the Transformer and pooling have one (--sequence-encoder)"])
    make = _PADDED.get(type(part))
    return part if make is None else make(part)


def _by_history(flat: Tensor, offsets: Tensor) -> Tensor:
    """[B * L, ...] -> [B, L, ...]; `len` would fix B in an export."""
    by_history: Tensor = flat.unflatten(0, (offsets.shape[0] - 1, -1))
    return by_history


def _positioned(encoder: TransformerEncoder, inputs: Tensor, positions: Tensor) -> Tensor:
    """What the first layer reads, [B * L, D]."""
    placed = inputs if encoder.position is None else inputs + encoder.position(positions.clamp(min=0))
    normed: Tensor = encoder.input_norm(placed)
    return normed


def _readable(places: Tensor, causal: bool) -> Tensor:
    """[B, 1, L, L], or a form that broadcasts to it: whether a place (third) reads another (fourth).

    Places behind the end are read by none before it; what they read themselves does not matter, but it must be something.
    """
    if not causal:
        return (places >= 0)[:, None, None, :]
    index = torch.arange(places.shape[1], device=places.device)
    return (index[None, :] <= index[:, None])[None, None]


def _attended(attention: SelfAttention, tokens: Tensor, readable: Tensor) -> Tensor:
    """Self-attention of tokens [B, L, D] with its weights."""
    projected = attention.query_key_value(tokens).unflatten(2, (3, attention.heads, -1))
    query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
    logits = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    weights = logits.masked_fill(~readable, -torch.inf).softmax(3)
    attended: Tensor = attention.output((weights @ value).transpose(1, 2).flatten(2))
    return attended


def _last(tokens: Tensor, places: Tensor) -> Tensor:
    """The state [B, D] at the last item of each history."""
    last = places.amax(1)[:, None, None].expand(-1, 1, tokens.shape[2])
    return tokens.gather(1, last).squeeze(1)
