"""SASRec: self-attentive sequential recommendation (Kang and McAuley, arXiv 1808.09781).

An item is a learned vector. A causal Transformer reads the history; the score of an item is the product of the last state
with the item's vector. Trained with the cross-entropy over the whole catalogue at every position, as in the tables of UniSRec
and VQ-Rec (the paper itself samples one negative).

A new item has no vector: it is read and scored as the zero vector.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.checks import refuse, small
from linguarec.nn.encoders import SequenceEncoder
from linguarec.nn.next_item import next_item_loss
from linguarec.nn.shape import CatalogueShape


@dataclass(frozen=True)
class SASRecConfig:
    """SASRec has no settings beside those of its sequence encoder.

    Args:
        initializer_range: standard deviation of the initial item vectors.
    """

    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        refuse(small(self, "initializer_range"))


class SASRec(nn.Module):
    """Items by ID: `item.weight` [N, D], row = catalogue row."""

    def __init__(self, config: SASRecConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.item = nn.Embedding(shape.num_items, encoder.config.hidden_size)
        nn.init.normal_(self.item.weight, std=config.initializer_range)
        self.encoder = encoder

    @property
    def max_length(self) -> int:
        """Longest history that is read."""
        return self.encoder.config.max_length

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Vectors [N, D] of the items; zero for items without a row."""
        known = (items.rows >= 0).unsqueeze(-1)
        vectors: Tensor = self.item(items.rows.clamp(min=0)) * known
        return vectors

    def item_keys(self, items: ItemBatch) -> Tensor:
        """Keys [N, D]: the same vectors."""
        return self.item_inputs(items)

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """State [T, D] of each position, which depends on this item and all earlier ones; [B, D] if `only_last`."""
        inputs = inputs.index_select(0, batch.items)
        states: Tensor = self.encoder(inputs, batch.positions, batch.offsets, batch.only_last)
        return states

    def finetune_loss(self, batch: SequenceBatch, items: ItemBatch) -> Tensor:
        """Mean loss of the next item over the catalogue `items` or a sample of it; see `next_item_loss`."""
        vectors = self.item_inputs(items)
        queries = self.queries(batch, vectors)
        return next_item_loss(queries, vectors, batch)
