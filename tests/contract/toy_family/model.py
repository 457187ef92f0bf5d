"""A toy: items by the letters of their text, histories read both ways by a mean over all places, hidden items guessed.

item      v = W x                      x: how often each letter occurs
place     h_i = A v_i + B mean_j v_j   v_i = a learned vector where the item is hidden
score     cos(h, v) / temperature      h at a hidden place behind the history
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.batching.pretraining import PretrainingBatch
from linguarec.checks import above_zero, at_least, refuse, size
from linguarec.nn.losses import catalogue_cross_entropy
from linguarec.nn.next_item import next_item_loss
from linguarec.nn.shape import CatalogueShape


@dataclass(frozen=True)
class ToyConfig:
    """Settings of the toy.

    Args:
        hidden_size: width D.
        longest: longest history that is read.
        temperature: cosines are divided by it.
    """

    hidden_size: int = size(24)
    longest: int = 12
    temperature: float = 0.1

    def __post_init__(self) -> None:
        refuse(at_least(self, hidden_size=1, longest=1) + above_zero(self, "temperature"))


class Toy(nn.Module):
    """Guesses hidden items from what stands on both sides of them."""

    def __init__(self, config: ToyConfig, shape: CatalogueShape) -> None:
        super().__init__()
        self.config = config
        self.letters = nn.Linear(shape.needs_features(), config.hidden_size)
        self.here = nn.Linear(config.hidden_size, config.hidden_size)
        self.around = nn.Linear(config.hidden_size, config.hidden_size)
        self.hidden = nn.Parameter(torch.zeros(config.hidden_size))

    @property
    def max_length(self) -> int:
        """Longest history that is read."""
        return self.config.longest

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Item vectors [N, D]."""
        assert items.features is not None
        vectors: Tensor = self.letters(items.features)
        return vectors

    def item_keys(self, items: ItemBatch) -> Tensor:
        """What is scored [N, D]."""
        return F.normalize(self.item_inputs(items).float(), dim=-1) / self.config.temperature

    def states(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """State [T, D] of each place; -1 in `batch.items` is a hidden one."""
        seen = inputs.index_select(0, batch.items.clamp(min=0))
        vectors = torch.where((batch.items < 0)[:, None], self.hidden, seen)
        lengths = batch.offsets[1:] - batch.offsets[:-1]
        history = torch.arange(len(lengths)).repeat_interleave(lengths)
        sums = vectors.new_zeros(len(lengths), vectors.shape[1]).index_add(0, history, vectors)
        return F.normalize((self.here(vectors) + self.around(sums / lengths[:, None])[history]).float(), dim=-1)

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """State [B, D] of a hidden place behind each history."""
        lengths = batch.offsets[1:] - batch.offsets[:-1]
        ends = (batch.offsets[1:] + torch.arange(len(lengths))).long()  # where the hidden places come to stand
        items = torch.full((len(batch.items) + len(lengths),), -1)
        kept = torch.ones(len(items), dtype=torch.bool)
        kept[ends] = False
        items[kept] = batch.items
        offsets = torch.cat([lengths.new_zeros(1), (lengths + 1).cumsum(0)])
        whole = SequenceBatch(items, offsets, items, items, batch.users, batch.domain)
        return self.states(whole, inputs)[ends]

    def finetune_loss(self, batch: SequenceBatch, items: ItemBatch) -> Tensor:
        """Mean loss of the hidden items over the catalogue or a sample of it."""
        return next_item_loss(self.states(batch, self.item_inputs(items)), self.item_keys(items), batch)

    def pretrain_loss(self, batch: PretrainingBatch) -> Tensor:
        """The same over the items of the step."""
        return self.finetune_loss(batch.sequences, batch.items)

    def spelling_loss(self, items: ItemBatch) -> Tensor:
        """Each item is found by its vector with some of its letters left out."""
        assert items.features is not None
        keys = self.item_keys(items)
        some: Tensor = self.letters(F.dropout(items.features, 0.3))
        return catalogue_cross_entropy(F.normalize(some.float(), dim=-1), keys, torch.arange(len(items)))
