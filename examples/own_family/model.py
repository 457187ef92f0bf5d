"""Decayed mean: a history is the sum of its item vectors, in which older items count less.

item      v = W x                              x: text vector of the item
history   s_t = sum over i <= t of g^(t-i) v_i  g: decay in (0, 1), learned
score     cos(A s_t, v_j) / temperature         A: learned map from a history to the next item
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.checks import above_zero, at_least, refuse, size
from linguarec.nn.next_item import next_item_loss
from linguarec.nn.shape import CatalogueShape


@dataclass(frozen=True)
class DecayConfig:
    """Settings of the decayed mean.

    Args:
        hidden_size: width D of item vectors and histories.
        longest: longest history that is read; older items are left out.
        temperature: divisor of the cosines.
    """

    hidden_size: int = size(64)
    longest: int = 20
    temperature: float = 0.1

    def __post_init__(self) -> None:
        refuse(at_least(self, hidden_size=1, longest=1) + above_zero(self, "temperature"))


class DecayedMean(nn.Module):
    """Predicts the next item from the decayed sum of the history's text vectors."""

    def __init__(self, config: DecayConfig, shape: CatalogueShape) -> None:
        super().__init__()
        self.config = config
        self.item = nn.Linear(shape.needs_features(), config.hidden_size)  # W
        self.following = nn.Linear(config.hidden_size, config.hidden_size)  # A
        self.decay = nn.Parameter(torch.zeros(()))  # g = sigmoid(decay), 0.5 at the start

    @property
    def max_length(self) -> int:
        """Longest history that is read."""
        return self.config.longest

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Item vectors v [N, D], which histories are made of."""
        vectors: Tensor = self.item(items.features)
        return vectors

    def item_keys(self, items: ItemBatch) -> Tensor:
        """Keys [N, D]: normalised item vectors over the temperature."""
        return self._keys(self.item_inputs(items))

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """Normalised A s_t [T, D] of each position; it depends on this item and the earlier ones."""
        lengths = batch.offsets[1:] - batch.offsets[:-1]
        history = torch.arange(len(lengths), device=inputs.device).repeat_interleave(lengths)
        place = batch.positions
        padded = inputs.new_zeros(len(lengths), int(lengths.max()), inputs.shape[1])  # [B, L, D]
        padded[history, place] = inputs[batch.items]
        states = self._weights(padded.shape[1]) @ padded
        return F.normalize(self.following(states[history, place]).float(), dim=-1)

    def finetune_loss(self, batch: SequenceBatch, items: ItemBatch) -> Tensor:
        """Mean loss of the next item over the catalogue `items` or a sample of it."""
        inputs = self.item_inputs(items)
        return next_item_loss(self.queries(batch, inputs), self._keys(inputs), batch)

    def _weights(self, longest: int) -> Tensor:
        """g^(t-i) at [t, i] for i <= t, else 0: [L, L]."""
        places = torch.arange(longest, device=self.decay.device)
        age = places[:, None] - places
        return torch.where(age >= 0, self.decay.sigmoid() ** age.clamp(min=0), 0.0)

    def _keys(self, inputs: Tensor) -> Tensor:
        return F.normalize(inputs.float(), dim=-1) / self.config.temperature
