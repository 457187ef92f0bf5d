"""Layout of sequences of different lengths in one flat tensor, processed in blocks of equal length without padding."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RaggedLayout:
    """Sequences ordered by length, so that all of one length form one block `[count, length]` of consecutive tokens.

    `blocks`: (count, length) of each block, shortest first. `order` [T] puts the tokens of the batch into block order and
    `inverse` [T] puts them back; `by_length` [B] are the sequences in block order. All three are None if the batch is already
    sorted by length.
    """

    blocks: tuple[tuple[int, int], ...]
    order: Tensor | None
    inverse: Tensor | None
    by_length: Tensor | None

    @classmethod
    def of(cls, offsets: Tensor) -> "RaggedLayout":
        """Layout of the sequences `offsets[b]:offsets[b + 1]` (`offsets` [B+1] int64)."""
        lengths = (offsets[1:] - offsets[:-1]).cpu()
        distinct, counts = torch.unique(lengths, sorted=True, return_counts=True)
        blocks = tuple(
            (count, length) for length, count in zip(distinct.tolist(), counts.tolist(), strict=True) if length
        )
        if bool((lengths[1:] >= lengths[:-1]).all()):
            return cls(blocks, None, None, None)
        by_length = torch.argsort(lengths, stable=True)
        sorted_lengths = lengths[by_length]
        starts = offsets.cpu()[:-1][by_length]
        ends = torch.cumsum(sorted_lengths, 0)
        order = torch.arange(int(ends[-1])) + torch.repeat_interleave(starts - (ends - sorted_lengths), sorted_lengths)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
        return cls(blocks, order.to(offsets.device), inverse.to(offsets.device), by_length)

    def to_blocks(self, tokens: Tensor) -> Tensor:
        """Tokens [T, ...] in block order."""
        return tokens if self.order is None else tokens.index_select(0, self.order)

    def from_blocks(self, tokens: Tensor) -> Tensor:
        """Tokens [T, ...] back in the order of the batch."""
        return tokens if self.inverse is None else tokens.index_select(0, self.inverse)

    def last_of(self, tokens: Tensor) -> Tensor:
        """Tokens [T, D] in block order -> the last token [B, D] of each sequence, in block order. No sequence may be empty."""
        blocks = zip(tokens.split(self.block_sizes), self.blocks, strict=True)
        return torch.cat([block.view(count, length, -1)[:, -1] for block, (count, length) in blocks])

    def in_batch_order(self, sequences: Tensor) -> Tensor:
        """What belongs to sequences [B, ...], from block order to the order of the batch."""
        if self.by_length is None:
            return sequences
        return sequences.index_select(0, torch.argsort(self.by_length).to(sequences.device))

    @property
    def block_sizes(self) -> list[int]:
        """Number of tokens of each block."""
        return [count * length for count, length in self.blocks]
