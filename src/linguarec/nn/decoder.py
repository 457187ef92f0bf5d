"""A causal decoder: a Transformer each of whose positions also reads one given vector.

Attention to a single vector is a linear map of it, because the softmax over one key is 1. So is attention to copies of it. The
sub-layer between attention and feed-forward is therefore x <- LayerNorm(x + Dropout(W h + c)).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.nn.dropout import Dropout
from linguarec.nn.encoders import SelfAttention, TransformerConfig, initialise, position_table
from linguarec.nn.ragged import RaggedLayout


class DecoderLayer(nn.Module):
    """Self-attention, the given vector, and feed-forward, each followed by dropout, residual sum and LayerNorm (post-LN)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.memory = nn.Linear(width, width)
        self.memory_norm = nn.LayerNorm(width, eps=eps)
        self.inner = nn.Linear(width, config.inner_size)
        self.outer = nn.Linear(config.inner_size, width)
        self.outer_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, memory: Tensor, layout: RaggedLayout, only_last: bool = False) -> Tensor:
        """Tokens and memory [T, D] in block order -> [T, D]; or, with `only_last`, the last of each sequence, [B, D]."""
        attended = self.attention(tokens, layout, only_last)
        if only_last:
            tokens, memory = layout.last_of(tokens), layout.last_of(memory)
        tokens = self.attention_norm(tokens + self.dropout(attended))
        tokens = self.memory_norm(tokens + self.dropout(self.memory(memory)))
        normed: Tensor = self.outer_norm(tokens + self.dropout(self.outer(F.gelu(self.inner(tokens)))))
        return normed


class Decoder(nn.Module):
    """Item input + position counted from the left, LayerNorm, dropout, then the layers."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.position = position_table(config)
        self.input_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.apply(lambda module: initialise(module, config.initializer_range))

    def forward(
        self, inputs: Tensor, memory: Tensor, positions: Tensor, offsets: Tensor, only_last: bool = False
    ) -> Tensor:
        """Item inputs and memory [T, D], positions [T], offsets [B+1] -> states [T, D]; with `only_last` [B, D].

        A state depends on the inputs and the memory of its own position and of earlier ones.
        """
        layout = RaggedLayout.of(offsets)
        tokens = layout.to_blocks(inputs if self.position is None else inputs + self.position(positions))
        tokens = self.dropout(self.input_norm(tokens))
        memory = layout.to_blocks(memory)
        for number, layer in enumerate(self.layers, start=1):
            tokens = layer(tokens, memory, layout, only_last and number == len(self.layers))
        return layout.in_batch_order(tokens) if only_last else layout.from_blocks(tokens)
