"""FDSA: feature-level deeper self-attention network (Zhang et al., IJCAI 2019, doi 10.24963/ijcai.2019/600).

    items       a = Encoder_item(e_1, ..., e_t)            e = learned vector of the item
    features    b = Encoder_feature(f_1, ..., f_t)         f = ReLU(W x + c), x = text vector of the item
    history     q = Dropout(LayerNorm(M [a; b] + m))
    score       q . e                                      over the catalogue

In the paper the features are category, brand and title words, pooled by an attention; here, as in UniSRec's baselines, the item
has one feature, its text vector, so that there is nothing to pool. The paper samples one negative; here the softmax is over the
catalogue, as in the published tables. UniSRec's file gives both encoders one table of positions, and one LayerNorm serves
both inputs and the output; here each has its own.

That file trains on noise: the text vectors are a part of its network when that redraws all embeddings, and stay fixed after it.
Here the text vectors are data, and are read as they are.

A new item has no learned vector: in a history it is read by its text, and it is scored as the zero vector.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.checks import probabilities, refuse, size, small
from linguarec.nn.dropout import Dropout
from linguarec.nn.encoders import SequenceEncoder, build_encoder
from linguarec.nn.next_item import next_item_loss
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned


@dataclass(frozen=True)
class FDSAConfig:
    """Settings of the merged state and of what is outside the two sequence encoders.

    Args:
        dropout: of the merged state.
        layer_norm_eps: epsilon of the LayerNorm of the merged state.
        initializer_range: standard deviation of the initial item vectors and linear maps.
    """

    dropout: float = tuned(0.5, low=0.0, high=0.8)
    layer_norm_eps: float = size(1e-12)
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        refuse(probabilities(self, "dropout") + small(self, "layer_norm_eps", "initializer_range"))


class FDSA(nn.Module):
    """Items by ID, `item.weight` [N, D], and by text vector; two sequence encoders with the same settings."""

    def __init__(self, config: FDSAConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        width = encoder.config.hidden_size
        self.item = nn.Embedding(shape.num_items, width)
        self.adaptor = nn.Linear(shape.needs_features(), width)
        self.encoder = encoder
        self.feature_encoder = build_encoder(encoder.config)
        self.merge = nn.Linear(2 * width, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)
        for module in (self.item, self.adaptor, self.merge):
            nn.init.normal_(module.weight, std=config.initializer_range)
        for linear in (self.adaptor, self.merge):
            nn.init.zeros_(linear.bias)

    @property
    def max_length(self) -> int:
        """Longest history that is read."""
        return self.encoder.config.max_length

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """[N, 2D]: the keys, and beside them the mapped text vectors."""
        keys = self.item_keys(items)
        return torch.cat([keys, F.relu(self.adaptor(items.features)).to(keys.dtype)], dim=1)

    def item_keys(self, items: ItemBatch) -> Tensor:
        """Learned vectors [N, D]; zero for items without a row."""
        known = (items.rows >= 0).unsqueeze(-1)
        vectors: Tensor = self.item(items.rows.clamp(min=0)) * known
        return vectors

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """Merged state [T, D] of each position, which depends on this item and all earlier ones; [B, D] if `only_last`."""
        by_id, by_text = inputs.index_select(0, batch.items).chunk(2, dim=1)
        states = [
            encoder(read, batch.positions, batch.offsets, batch.only_last)
            for encoder, read in ((self.encoder, by_id), (self.feature_encoder, by_text))
        ]
        merged: Tensor = self.dropout(self.output_norm(self.merge(torch.cat(states, dim=1))))
        return merged

    def finetune_loss(self, batch: SequenceBatch, items: ItemBatch) -> Tensor:
        """Mean loss of the next item over the catalogue `items` or a sample of it; see `next_item_loss`."""
        inputs = self.item_inputs(items)
        keys, queries = inputs.chunk(2, dim=1)[0], self.queries(batch, inputs)
        return next_item_loss(queries, keys, batch)
