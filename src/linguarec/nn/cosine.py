"""Base of the text-based models: they compare history and items by cosine.

    score       cos(s, v) / temperature     s = state of the history, v = item vector

A model adds the item encoder (`item_inputs`); the sequence encoder reads the same item vectors.
"""

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.nn.encoders import SequenceEncoder
from linguarec.nn.losses import Pairs
from linguarec.nn.next_item import next_item_loss
from linguarec.nn.shape import CatalogueShape


class HasTemperature(Protocol):
    """Settings of a model that scores by cosine."""

    @property
    def temperature(self) -> float:
        """Cosines are divided by it."""


class CosineRecommender(nn.Module):
    """Scores are cosines of state and item vector over `config.temperature`, as in UniSRec (eq. 12) and VQ-Rec (eq. 5)."""

    def __init__(self, config: HasTemperature, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.encoder = encoder

    @property
    def max_length(self) -> int:
        """Longest history that is read."""
        return self.encoder.config.max_length

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Item vectors [N, D], the inputs of the sequence encoder."""
        raise NotImplementedError

    def item_keys(self, items: ItemBatch) -> Tensor:
        """Keys [N, D]: normalised item vectors over the temperature."""
        return self._keys(self.item_inputs(items))

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """Normalised state [T, D] of each position, which depends on this item and all earlier ones; [B, D] if `only_last`."""
        states = self.encoder(inputs.index_select(0, batch.items), batch.positions, batch.offsets, batch.only_last)
        return F.normalize(states.float(), dim=-1)

    def finetune_loss(self, batch: SequenceBatch, items: ItemBatch) -> Tensor:
        """Mean loss of the next item over the catalogue `items` or a sample of it; see `next_item_loss`."""
        inputs = self.item_inputs(items)
        queries = self.queries(batch, inputs)
        return next_item_loss(queries, self._keys(inputs), batch)

    def pairs(self, batch: SequenceBatch, items: ItemBatch, queries: Tensor, inputs: Tensor) -> Pairs:
        """The (position, next item) pairs of `batch` for contrast; `queries` [T, D], `inputs` [N, D] of `items`."""
        index = (batch.targets >= 0).nonzero().squeeze(1)
        targets = batch.targets[index]
        lengths = batch.offsets[1:] - batch.offsets[:-1]
        users = batch.users.repeat_interleave(lengths)[index]
        return Pairs(queries[index], self._keys(inputs.index_select(0, targets)), items.numbers[targets], users)

    def _keys(self, inputs: Tensor) -> Tensor:
        return F.normalize(inputs.float(), dim=-1) / self.config.temperature
