"""Sliding-window attention with one global token, on ragged sequences (Longformer, arXiv 2004.05150).

A token attends to the tokens at most `reach` positions away, and to the first token of its sequence, which is global: it
attends to all tokens, with its own projections.

    local       o_i = softmax(q_i . k_j) v_j        over j = 0 and |i - j| <= reach
    global      o_0 = softmax(q'_0 . k'_j) v'_j     over all j

Long sequences are cut into blocks of `reach` tokens. A block attends to itself, to its two neighbours and to the global
token, so that there is never a [T, T] matrix; blocks of all sequences form one batch. In a sequence of at most `reach`
+ 2 tokens all tokens attend to all, so plain attention over blocks of equal length is enough.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.families.recformer.near_attention import AttentionWindows, attend_near
from linguarec.nn.dropout import keep_mask
from linguarec.nn.ragged import RaggedLayout


@dataclass(frozen=True)
class WindowLayout:
    """Order of the tokens of a batch for window attention: by the length of their sequence.

    `ragged`: converts to that order and back. `first` [B]: first token of each sequence, sequences and tokens in that order;
    `place` [B]: index of each sequence of the batch in that order. `short`: (count, length) of the blocks of sequences in
    which all tokens attend to all. `windows`: the longer sequences, or None.
    """

    ragged: RaggedLayout
    first: Tensor
    place: Tensor
    short: tuple[tuple[int, int], ...]
    windows: AttentionWindows | None

    @classmethod
    def of(cls, offsets: Tensor, reach: int) -> "WindowLayout":
        """Layout of the sequences `offsets[b]:offsets[b + 1]` (`offsets` [B+1] int64), none of them empty."""
        device = offsets.device
        lengths, order = (offsets[1:] - offsets[:-1]).cpu().sort(stable=True)
        if len(lengths) == 0 or lengths[0] == 0:
            raise ValueError("window attention needs at least one sequence, and at least one token in each")
        ragged = RaggedLayout.of(offsets)
        short = tuple((count, length) for count, length in ragged.blocks if length <= reach + 2)
        long = lengths[lengths > reach + 2]
        windows = AttentionWindows.of(long, reach).to(device) if len(long) else None
        first = lengths.cumsum(0) - lengths
        return cls(ragged, first.to(device), order.argsort().to(device), short, windows)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.ragged.blocks[-1][1]

    @property
    def short_sizes(self) -> list[int]:
        """Number of tokens of each block of short sequences."""
        return [count * length for count, length in self.short]


class WindowAttention(nn.Module):
    """Multi-head attention of width D as above, with the output projection.

    Only the global token uses the global queries, so the global key and value projections are applied to its side instead of
    to all tokens (q' . W x = W^T q' . x, and W applied to the mean of x, not to each x): D / heads times less work.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.global_query = nn.Linear(width, width)
        self.global_key = nn.Linear(width, width)
        self.global_value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, layout: WindowLayout) -> Tensor:
        """Tokens [T, D] in the order of the layout -> [T, D]."""
        mixed = self._local(self.query_key_value(tokens), layout)
        attended: Tensor = self.output(mixed.index_copy(0, layout.first, self._global(tokens, layout).to(mixed.dtype)))
        return attended

    def pool(self, tokens: Tensor, layout: WindowLayout) -> Tensor:
        """The output of `forward` at the first token of each sequence, [B, D], without computing the others."""
        pooled: Tensor = self.output(self._global(tokens, layout))
        return pooled

    def _local(self, projected: Tensor, layout: WindowLayout) -> Tensor:
        """Queries, keys and values [T, 3 * D] -> [T, D]."""
        parts = projected.view(len(projected), 3, self.heads, -1)
        short_tokens = sum(layout.short_sizes)
        mixed = []
        for block, (count, length) in zip(parts[:short_tokens].split(layout.short_sizes), layout.short, strict=True):
            query, key, value = block.view(count, length, *parts.shape[1:]).unbind(2)
            mixed.append(self._attend(query, key, value).reshape(count * length, -1))
        if layout.windows is not None:
            long = parts[short_tokens:]
            if long.device.type == "cpu":
                mixed.append(attend_near(long, layout.windows, self.dropout if self.training else 0.0).flatten(1))
            else:
                mixed.append(self._in_windows(long, layout.windows))
        return torch.cat(mixed)

    def _in_windows(self, parts: Tensor, windows: AttentionWindows) -> Tensor:
        """Queries, keys and values [T, 3, heads, D / heads] of long sequences -> [T, D]; used on a GPU."""
        blocks = parts.index_select(0, windows.source).view(*windows.padding.shape, *parts.shape[1:])
        of_global = parts[:, 1:].index_select(0, windows.first[windows.sequence]).unsqueeze(1)
        own = blocks[:, :, 1:]
        # Blocks that `roll` wraps around from the other end belong to another sequence, which `seen` masks out.
        near = torch.cat([of_global, own.roll(1, 0), own, own.roll(-1, 0)], dim=1)
        query, key, value = (part.transpose(1, 2) for part in (blocks[:, :, 0], *near.unbind(2)))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=windows.seen, dropout_p=dropout)
        return mixed.transpose(1, 2).reshape(len(windows.source), -1).index_select(0, windows.cells)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries [n, l, heads, d] over keys and values [n, m, heads, d] -> [n, l, heads, d]."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        low = query.dtype != torch.float32
        if query.device.type == "cpu" and query.requires_grad and (dropout or low):
            # The fused CPU kernel does not support dropout, and its bfloat16 backward pass takes three times as long as this.
            logits = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
            weights = logits.softmax(-1)
            mixed = (weights * keep_mask(weights, dropout) if dropout else weights) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return mixed.transpose(1, 2)

    def _global(self, tokens: Tensor, layout: WindowLayout) -> Tensor:
        """Attention of the first token of each sequence over all of its tokens: [T, D] -> [B, D], before the output
        projection."""
        by_head = (self.heads, -1, tokens.shape[-1])
        query = self.global_query(tokens.index_select(0, layout.first)).unflatten(-1, (self.heads, -1))
        query = query / math.sqrt(query.shape[-1])
        probe = torch.einsum("bhd,hde->bhe", query, self.global_key.weight.view(by_head))
        shift = torch.einsum("bhd,hd->bh", query, self.global_key.bias.view(self.heads, -1))
        gathered, sequences, taken = [], 0, 0
        for count, length in layout.short:
            block = tokens[taken : taken + count * length].view(count, length, -1)
            rows = slice(sequences, sequences + count)
            logits = block @ probe[rows].transpose(1, 2) + shift[rows, None]
            gathered.append(self._dropped(logits.float().softmax(1)).to(block.dtype).transpose(1, 2) @ block)
            sequences, taken = sequences + count, taken + count * length
        if layout.windows is not None:
            gathered.append(self._gather(tokens[taken:], layout.windows, probe[sequences:], shift[sequences:]))
        pooled = torch.cat(gathered)  # [B, heads, D]: the mean token under each head's weights
        values = torch.einsum("bhe,hde->bhd", pooled, self.global_value.weight.view(by_head))
        return values.flatten(1) + self.global_value.bias

    def _gather(self, tokens: Tensor, windows: AttentionWindows, probe: Tensor, shift: Tensor) -> Tensor:
        """Long sequences: tokens [T, D], probes [S, heads, D] -> [S, heads, D], a softmax over each whole sequence."""
        blocks = tokens.index_select(0, windows.source).view(*windows.padding.shape, -1)
        of = windows.sequence
        logits = (blocks @ probe[of].transpose(1, 2) + shift[of, None]).float()
        logits = logits.masked_fill(windows.padding[..., None], -math.inf)
        highest = logits.new_full(shift.shape, -math.inf)
        highest = highest.scatter_reduce(0, of[:, None].expand(-1, self.heads), logits.detach().amax(1), "amax")
        raised = (logits - highest[of, None]).exp()
        total = torch.zeros_like(highest).index_add(0, of, raised.sum(1))
        weights = self._dropped(raised / total[of, None]).to(blocks.dtype)
        parts = (weights.transpose(1, 2) @ blocks).float()
        return parts.new_zeros(probe.shape).index_add(0, of, parts)

    def _dropped(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.dropout, self.training)
