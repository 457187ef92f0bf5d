"""Sliding-window attention of long ragged sequences on a CPU, a few windows at a time, so that they stay in the cache.

With stock operators, the same attention would write keys and values of all windows to memory (three times those of
all tokens, and the global one), then logits, weights and dropout, read them all back, and keep them for the backward pass.
Here only the weights are kept, and the backward pass gathers keys and values again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from linguarec.nn.dropout import keep_mask

WINDOWS_AT_A_TIME = 16


@dataclass(frozen=True)
class AttentionWindows:
    """S long sequences, cut into W blocks of `reach` cells; cells after the end of a sequence are padding.

    `source` [W * reach]: the token in each cell (any token in padding). `cells` [T]: the cell of each token. `sequence`
    [W]: the sequence of each block. `padding` [W, reach]: which cells hold no token. `first` [S]: first token of each
    sequence. `seen` [W, 1, reach, 1 + 3 * reach]: attention mask of each query over the global token, the previous block, its
    own and the next one.
    """

    source: Tensor
    cells: Tensor
    sequence: Tensor
    padding: Tensor
    first: Tensor
    seen: Tensor

    @classmethod
    def of(cls, lengths: Tensor, reach: int) -> "AttentionWindows":
        """Cut concatenated sequences of the given `lengths` [S]."""
        blocks = (lengths + reach - 1) // reach
        sequence = torch.repeat_interleave(torch.arange(len(lengths)), blocks)
        block = torch.arange(len(sequence)) - (blocks.cumsum(0) - blocks)[sequence]
        first = lengths.cumsum(0) - lengths
        length = lengths[sequence, None]
        position = block[:, None] * reach + torch.arange(reach)
        padding = position >= length
        source = (first[sequence, None] + position).masked_fill(padding, 0).flatten()
        key = (block[:, None] - 1) * reach + torch.arange(3 * reach)
        near = (torch.arange(reach)[:, None] + reach - torch.arange(3 * reach)).abs() <= reach
        local = near & ((key >= 1) & (key < length))[:, None]
        seen = torch.cat([torch.ones(len(sequence), reach, 1, dtype=torch.bool), local], dim=-1)
        return cls(source, (~padding).flatten().nonzero().squeeze(1), sequence, padding, first, seen[:, None])

    def to(self, device: torch.device) -> "AttentionWindows":
        """The same windows on another device."""
        return AttentionWindows(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    @property
    def reach(self) -> int:
        """Cells of a block."""
        return self.padding.shape[1]


def attend_near(projected: Tensor, windows: AttentionWindows, dropout: float) -> Tensor:
    """Attention of each token over the global token and the tokens at most `reach` positions away.

    Args:
        projected: queries, keys and values [T, 3, heads, d] of the long sequences, on a CPU.
        windows: how they are cut.
        dropout: of the weights.

    Returns:
        [T, heads, d].
    """
    if torch.is_grad_enabled() and projected.requires_grad:
        mixed: Tensor = _AttendNear.apply(projected, windows, dropout)  # type: ignore[no-untyped-call]
        return mixed
    return _mix(projected, windows, dropout)


def _mix(projected: Tensor, windows: AttentionWindows, dropout: float, kept: list[Tensor] | None = None) -> Tensor:
    """The forward pass. `kept` receives the tensors for the backward pass of each chunk: weights, and with dropout the mask."""
    mixed = torch.empty_like(projected[:, 0])
    for chunk in _chunks(windows):
        query, key, value = chunk.gather(projected)
        weights = chunk.weights(query, key)
        needed = [weights]
        if dropout:
            needed.append(keep_mask(weights, dropout))
            weights = weights * needed[-1]
        chunk.write(mixed, weights @ value)
        if kept is not None:
            kept += needed
    return mixed


class _AttendNear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, windows: AttentionWindows, dropout: float) -> Tensor:
        kept: list[Tensor] = []
        mixed = _mix(projected, windows, dropout, kept)
        ctx.windows, ctx.has_dropout = windows, dropout > 0
        ctx.save_for_backward(projected, *kept)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        projected, *kept = ctx.saved_tensors
        saved = iter(kept)
        of_projected = torch.zeros_like(projected)
        of_global = projected.new_zeros(len(ctx.windows.first), *projected[0, 1:].shape)
        for chunk in _chunks(ctx.windows):
            query, key, value = chunk.gather(projected)
            of_mixed = chunk.read(gradient)
            used = weights = next(saved)
            of_weights = of_mixed @ value.transpose(-2, -1)
            if ctx.has_dropout:
                mask = next(saved)
                used = weights * mask
                of_weights *= mask
            of_value = used.transpose(-2, -1) @ of_mixed
            # The stock operator, because in bfloat16 its inner difference must be computed before rounding.
            of_logits = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_key = of_logits.transpose(-2, -1) @ query
            chunk.scatter(of_projected, of_global, of_logits @ key, of_key, of_value)
        of_projected[:, 1:].index_add_(0, ctx.windows.first, of_global)
        return of_projected, None, None


@dataclass(frozen=True)
class _Chunk:
    """The W' windows from `first` to `end` (exclusive)."""

    windows: AttentionWindows
    first: int
    end: int

    def gather(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries [heads, W', reach, d], keys and values [heads, W', 1 + 3 * reach, d]."""
        windows, reach = self.windows, self.windows.reach
        # The blocks before the first and after the last do not exist; any other block serves, because the mask hides it.
        blocks = torch.arange(self.first - 1, self.end + 1).clamp(0, len(windows.sequence) - 1)
        tokens = projected.index_select(0, windows.source.view(-1, reach)[blocks].flatten())
        parts = tokens.permute(1, 2, 0, 3).contiguous()  # [3, heads, cells, d]
        of_global = projected[windows.first[windows.sequence[self.first : self.end]], 1:].permute(1, 2, 0, 3)
        near = parts[1:].unfold(2, 3 * reach, reach).transpose(-2, -1)
        key, value = torch.cat([of_global.unsqueeze(3), near], dim=3)
        query = parts[0, :, reach:-reach].unflatten(1, (-1, reach))
        return query / math.sqrt(query.shape[-1]), key, value

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention weights [heads, W', reach, 1 + 3 * reach]; each row sums to 1."""
        seen = self.windows.seen[self.first : self.end, 0]
        bias = torch.zeros_like(seen, dtype=query.dtype).masked_fill_(~seen, -math.inf)
        return (query @ key.transpose(-2, -1)).add_(bias).softmax(-1)

    def write(self, mixed: Tensor, of_windows: Tensor) -> None:
        """Write [heads, W', reach, d] to the positions of its tokens in `mixed` [T, heads, d]."""
        tokens, cells = self._tokens(self.first, self.end)
        mixed[tokens] = of_windows.flatten(1, 2).transpose(0, 1).index_select(0, cells)

    def read(self, gradient: Tensor) -> Tensor:
        """The inverse of `write`: [T, heads, d] -> [heads, W', reach, d], 0 in padding."""
        windows = self.windows
        cells = slice(self.first * windows.reach, self.end * windows.reach)
        real = ~windows.padding[self.first : self.end].flatten()
        found = gradient.index_select(0, windows.source[cells]) * real.to(gradient.dtype)[:, None, None]
        return found.transpose(0, 1).contiguous().view(found.shape[1], -1, windows.reach, found.shape[2])

    def scatter(self, of_projected: Tensor, of_global: Tensor, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Add the gradients of the outputs of `gather` to those of the projected and of the global tokens."""
        windows, reach = self.windows, self.windows.reach
        count = self.end - self.first
        _, parts, heads, width = of_projected.shape
        blocks = of_projected.new_zeros(parts, heads, count + 2, reach, width)
        blocks[0, :, 1:-1] = query / math.sqrt(width)
        sequence = windows.sequence[self.first : self.end]
        for part, near in ((1, key), (2, value)):
            of_global[:, part - 1].index_add_(0, sequence, near[:, :, 0].transpose(0, 1))
            for place in range(3):
                blocks[part, :, place : place + count] += near[:, :, 1 + place * reach : 1 + (place + 1) * reach]
        first, end = max(self.first - 1, 0), min(self.end + 1, len(windows.sequence))
        tokens, cells = self._tokens(first, end)
        cells = cells + (first - self.first + 1) * reach
        of_projected[tokens] += blocks.flatten(2, 3).permute(2, 0, 1, 3).contiguous().index_select(0, cells)

    def _tokens(self, first: int, end: int) -> tuple[slice, Tensor]:
        """The slice of the tokens of these windows, and the cell of each token, counted from the first window."""
        windows, reach = self.windows, self.windows.reach
        bounds = torch.tensor([first * reach, end * reach])
        start, stop = torch.searchsorted(windows.cells, bounds).tolist()
        return slice(start, stop), windows.cells[start:stop] - first * reach


def _chunks(windows: AttentionWindows) -> Iterator[_Chunk]:
    count = len(windows.sequence)
    for first in range(0, count, WINDOWS_AT_A_TIME):
        yield _Chunk(windows, first, min(first + WINDOWS_AT_A_TIME, count))
