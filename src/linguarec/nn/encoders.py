"""Sequence encoders: from the vectors of a history to one state per position. They work without padding.

All read causally: a state depends on its own position and on earlier ones. The Transformer reads both ways with `causal=False`.
Pooling reads a history as a set.

A model takes one of them as a constructor argument, so that its item encoder and its sequence encoder are independent.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.checks import at_least, divided_by_heads, probabilities, refuse, size, small
from linguarec.nn.dropout import Dropout, keep_mask
from linguarec.nn.ragged import RaggedLayout
from linguarec.ranges import tuned


@dataclass(frozen=True)
class TransformerConfig:
    """Transformer, sizes as published for UniSRec and VQ-Rec.

    Args:
        hidden_size: width D of item inputs and states.
        layers: number of Transformer layers.
        heads: attention heads; must divide hidden_size.
        inner_size: width of the feed-forward layer.
        dropout: of the inputs and of each sub-layer's output.
        attention_dropout: of the attention weights; as `dropout` unless given.
        max_length: longest history that is read; older items are left out.
        layer_norm_eps: epsilon of all LayerNorms.
        initializer_range: standard deviation of the initial weights.
        positions: learned = a vector for each position, counted from the left, is added to the item inputs; none = the
            encoder is not told where an item stands, for histories whose order says nothing.
    """

    hidden_size: int = size(300)
    layers: int = size(2)
    heads: int = size(2)
    inner_size: int = size(256)
    dropout: float = tuned(0.5, low=0.0, high=0.8)
    attention_dropout: float | None = None
    max_length: int = size(50, positions="learned")
    layer_norm_eps: float = size(1e-12)
    initializer_range: float = 0.02
    positions: Literal["learned", "none"] = tuned(size("learned"), choices=("learned", "none"))

    def __post_init__(self) -> None:
        problems = at_least(self, hidden_size=1, layers=1, heads=1, inner_size=1, max_length=1) + divided_by_heads(self)
        problems += small(self, "layer_norm_eps", "initializer_range")
        if self.positions not in ("learned", "none"):
            problems.append(f"positions is {self.positions!r}; it must be learned or none")
        refuse(problems + probabilities(self, "dropout", "attention_dropout"))


@dataclass(frozen=True)
class GRUConfig:
    """Gated recurrent units (GRU4Rec's encoder): dropout, GRU layers, a projection back to the hidden size.

    Args:
        hidden_size: width D of item inputs and states.
        layers: number of GRU layers.
        inner_size: width of the recurrent state.
        dropout: of the inputs.
        max_length: longest history that is read; older items are left out.
        initializer_range: standard deviation of the initial weights of the projection.
    """

    hidden_size: int = size(300)
    layers: int = size(1)
    inner_size: int = size(300)
    dropout: float = tuned(0.3, low=0.0, high=0.8)
    max_length: int = size(50)
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        problems = at_least(self, hidden_size=1, layers=1, inner_size=1, max_length=1)
        problems += small(self, "initializer_range")
        refuse(problems + probabilities(self, "dropout"))


@dataclass(frozen=True)
class PoolingConfig:
    """Pooling: the mean of the items so far, then a feed-forward layer; for histories that are sets (arXiv 1703.06114).

    Args:
        hidden_size: width D of item inputs and states.
        inner_size: width of the feed-forward layer.
        dropout: fraction of the items of a history that training leaves out.
        max_length: longest history that is read; older items are left out.
        layer_norm_eps: epsilon of both LayerNorms.
        initializer_range: standard deviation of the initial weights.
    """

    hidden_size: int = size(300)
    inner_size: int = size(300)
    dropout: float = tuned(0.5, low=0.0, high=0.8)
    max_length: int = 1000
    layer_norm_eps: float = size(1e-12)
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        problems = at_least(self, hidden_size=1, inner_size=1, max_length=1)
        problems += small(self, "layer_norm_eps", "initializer_range")
        refuse(problems + probabilities(self, "dropout"))


EncoderConfig = TransformerConfig | GRUConfig | PoolingConfig


def _float32_on_cpu(projected: Tensor) -> Tensor:
    """Queries, keys and values as attention reads them.

    Blocks keep having new shapes, and oneDNN compiles and caches a bfloat16 kernel for each: float32 takes a third of the time
    there and saves half a gigabyte (bench/README.md).
    """
    return projected.float() if projected.device.type == "cpu" else projected


class SelfAttention(nn.Module):
    """Multi-head self-attention within each ragged sequence: each position attends to itself and to earlier ones, or to all."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor, layout: RaggedLayout, only_last: bool = False, causal: bool = True) -> Tensor:
        """Tokens [T, D] in block order -> [T, D]; or, with `only_last`, the last one of each sequence, [B, D]."""
        width = tokens.shape[-1]
        if only_last:
            weight, bias = self.query_key_value.weight, self.query_key_value.bias
            queries = _float32_on_cpu(F.linear(layout.last_of(tokens), weight[:width], bias[:width]))
            keys_values = _float32_on_cpu(F.linear(tokens, weight[width:], bias[width:]))
            query_sizes = [count for count, _ in layout.blocks]
        else:
            queries, keys_values = _float32_on_cpu(self.query_key_value(tokens)).split([width, 2 * width], dim=1)
            query_sizes = layout.block_sizes
        with torch.autocast(tokens.device.type, enabled=False):
            mixed = [
                self._attend(
                    causal,
                    query.view(count, -1, self.heads, width // self.heads).transpose(1, 2),
                    *block.view(count, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4),
                ).flatten(0, 1)
                for query, block, (count, length) in zip(
                    queries.split(query_sizes), keys_values.split(layout.block_sizes), layout.blocks, strict=True
                )
            ]
        attended: Tensor = self.output(torch.cat(mixed))
        return attended

    def _attend(self, causal: bool, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[count, heads, length, D/heads] each -> [count, length, D]; of the last position alone if that is the only query."""
        asked, length = query.shape[2], key.shape[2]
        if query.device.type == "cpu" and self.training and self.dropout:
            # The fused CPU kernel does not support dropout; histories are short, so the direct form is cheap.
            logits = (query @ key.transpose(-2, -1)).div_(math.sqrt(query.shape[-1]))
            if causal:
                future = torch.ones(asked, length, dtype=torch.bool).triu_(1 + length - asked)
                logits.masked_fill_(future, -torch.inf)
            weights = logits.softmax(-1)
            mixed = (weights * keep_mask(weights, self.dropout)) @ value
        else:
            mixed = F.scaled_dot_product_attention(
                query,
                key,
                value,
                is_causal=causal and asked == length,
                dropout_p=self.dropout if self.training else 0.0,
            )
        return mixed.transpose(1, 2).flatten(2)


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each followed by dropout, residual sum and LayerNorm (post-LN).

    With `reads_memory` there is a sub-layer between them: the linear map of a vector given for each position, for decoders.
    """

    def __init__(self, config: TransformerConfig, reads_memory: bool = False) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if reads_memory:
            self.memory = nn.Linear(config.hidden_size, config.hidden_size)
            self.memory_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.inner = nn.Linear(config.hidden_size, config.inner_size)
        self.outer = nn.Linear(config.inner_size, config.hidden_size)
        self.outer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        tokens: Tensor,
        layout: RaggedLayout,
        only_last: bool = False,
        causal: bool = True,
        memory: Tensor | None = None,
    ) -> Tensor:
        """Tokens and memory [T, D] in block order -> [T, D]; or, with `only_last`, the last one of each sequence, [B, D]."""
        attended = self.attention(tokens, layout, only_last, causal)
        tokens = layout.last_of(tokens) if only_last else tokens
        tokens = self.attention_norm(tokens + self.dropout(attended))
        if memory is not None:
            memory = layout.last_of(memory) if only_last else memory
            tokens = self.memory_norm(tokens + self.dropout(self.memory(memory)))
        normed: Tensor = self.outer_norm(tokens + self.dropout(self.outer(F.gelu(self.inner(tokens)))))
        return normed


class TransformerEncoder(nn.Module):
    """SASRec's Transformer: item input + position counted from the left, LayerNorm, dropout, then the layers.

    Without positions, and if it reads both ways, a state depends on the items of a sequence and not on their order. Causal
    attention still tells each position which items came before it.
    """

    reads_memory: ClassVar = False

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        learned = config.positions == "learned"
        self.position = nn.Embedding(config.max_length, config.hidden_size) if learned else None
        self.input_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(TransformerLayer(config, self.reads_memory) for _ in range(config.layers))
        self.apply(lambda module: initialise(module, config.initializer_range))

    def forward(
        self, inputs: Tensor, positions: Tensor, offsets: Tensor, only_last: bool = False, causal: bool = True
    ) -> Tensor:
        """Item inputs [T, D], positions [T], offsets [B+1] -> states [T, D]; with `only_last` [B, D], at the last items.

        `causal`: whether a position reads earlier ones only; else it reads the whole sequence.
        """
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
        """As `forward`; `memory` [T, D]: what the layers read beside the tokens, if they do."""
        layout = RaggedLayout.of(offsets)
        memory = None if memory is None else layout.to_blocks(memory)
        tokens = layout.to_blocks(inputs if self.position is None else inputs + self.position(positions))
        tokens = self.dropout(self.input_norm(tokens))
        for number, layer in enumerate(self.layers, start=1):
            tokens = layer(tokens, layout, only_last and number == len(self.layers), causal, memory)
        return layout.in_batch_order(tokens) if only_last else layout.from_blocks(tokens)


class GRUEncoder(nn.Module):
    """GRU4Rec's encoder on ragged sequences. Positions are not used: the recurrence follows the order."""

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.config = config
        self.dropout = Dropout(config.dropout)
        self.recurrence = nn.GRU(config.hidden_size, config.inner_size, config.layers, bias=False, batch_first=True)
        self.output = nn.Linear(config.inner_size, config.hidden_size)
        for name, weight in self.recurrence.named_parameters():
            (nn.init.xavier_uniform_ if "_ih_" in name else nn.init.orthogonal_)(weight)
        initialise(self.output, config.initializer_range)

    def forward(
        self, inputs: Tensor, positions: Tensor, offsets: Tensor, only_last: bool = False, causal: bool = True
    ) -> Tensor:
        """Item inputs [T, D], positions [T] (unused), offsets [B+1] -> states [T, D]; with `only_last` [B, D].

        Raises:
            ValueError: `causal` is False.
        """
        if not causal:
            raise ValueError("a GRU reads from left to right only; a model that reads both ways needs the Transformer")
        layout = RaggedLayout.of(offsets)
        blocks = layout.to_blocks(self.dropout(inputs)).split(layout.block_sizes)
        states = [
            self.recurrence(block.view(count, length, -1))[0].reshape(count * length, -1)
            for block, (count, length) in zip(blocks, layout.blocks, strict=True)
        ]
        if only_last:
            return layout.in_batch_order(self.output(layout.last_of(torch.cat(states))))
        return layout.from_blocks(self.output(torch.cat(states)))


class PoolingEncoder(nn.Module):
    """x = LayerNorm(mean of the item inputs up to a position); state = LayerNorm(x + W2 GELU(W1 x)).

    The items up to a position count alike, in whatever order they stand.
    """

    def __init__(self, config: PoolingConfig) -> None:
        super().__init__()
        self.config = config
        self.dropout = Dropout(config.dropout)
        self.input_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.inner = nn.Linear(config.hidden_size, config.inner_size)
        self.outer = nn.Linear(config.inner_size, config.hidden_size)
        self.outer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.apply(lambda module: initialise(module, config.initializer_range))

    def forward(
        self, inputs: Tensor, positions: Tensor, offsets: Tensor, only_last: bool = False, causal: bool = True
    ) -> Tensor:
        """Item inputs [T, D], positions [T] (unused), offsets [B+1] -> states [T, D]; with `only_last` [B, D].

        Raises:
            ValueError: `causal` is False.
        """
        if not causal:
            raise ValueError(
                "pooling reads from left to right only; a model that reads both ways needs the Transformer"
            )
        inputs = inputs * self.dropout(torch.ones_like(inputs[:, :1]))  # whole items
        layout = RaggedLayout.of(offsets)
        blocks = layout.to_blocks(inputs.float()).split(layout.block_sizes)
        means = [
            _means(block.view(count, length, -1), only_last)
            for block, (count, length) in zip(blocks, layout.blocks, strict=True)
        ]
        pooled = self.input_norm(torch.cat(means))
        states: Tensor = self.outer_norm(pooled + self.outer(F.gelu(self.inner(pooled))))
        return layout.in_batch_order(states) if only_last else layout.from_blocks(states)


def _means(items: Tensor, only_last: bool) -> Tensor:
    """[count, length, D] -> the mean of the items up to each place, [count * length, D], or [count, D] up to the last one."""
    if only_last:
        return items.mean(1)
    number = torch.arange(1, items.shape[1] + 1, device=items.device)[:, None]
    return (items.cumsum(1) / number).flatten(0, 1)


SequenceEncoder = TransformerEncoder | GRUEncoder | PoolingEncoder
ENCODERS: dict[str, type[TransformerConfig] | type[GRUConfig] | type[PoolingConfig]] = {
    "transformer": TransformerConfig,
    "gru": GRUConfig,
    "pooling": PoolingConfig,
}


def encoder_kind(config: EncoderConfig) -> str:
    """Name in `ENCODERS` of the sequence encoder with these settings."""
    return next(name for name, kind in ENCODERS.items() if isinstance(config, kind))


def build_encoder(config: EncoderConfig) -> SequenceEncoder:
    """The sequence encoder that `config` describes, freshly initialised."""
    if isinstance(config, TransformerConfig):
        return TransformerEncoder(config)
    return GRUEncoder(config) if isinstance(config, GRUConfig) else PoolingEncoder(config)


def initialise(module: nn.Module, deviation: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
