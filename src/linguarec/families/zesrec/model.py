"""ZESRec: zero-shot recommender system (Ding et al., arXiv 2105.08318).

    item        v = W x + b                       x = text vector of the item
    history     s = Encoder(v_1, ..., v_t)        Transformer, or the paper's GRU
    score       s . v                             over the items of any shop: no parameter belongs to an item

    pre-train   s finds the next item among the targets of the step, from all domains
    fine-tune   cross-entropy of the next item over the catalogue, at every position

Differences from the paper: it adds to each item and user a Gaussian offset that is learned on the source and dropped on the
target. These offsets are left out, as in the published table's runs of UniSRec and VQ-Rec, whose authors describe linear maps
and SASRec's Transformer. The paper's softmax is over the source catalogue; here pre-training takes the targets of the step, as
for the other models. The paper puts a dummy item in front, so that it also answers for empty histories.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.batching.pretraining import PretrainingBatch
from linguarec.checks import refuse, small
from linguarec.nn.encoders import SequenceEncoder
from linguarec.nn.losses import Pairs, contrastive_cross_entropy
from linguarec.nn.next_item import next_item_loss
from linguarec.nn.shape import CatalogueShape


@dataclass(frozen=True)
class ZESRecConfig:
    """ZESRec has no settings beside those of its sequence encoder.

    Args:
        initializer_range: standard deviation of the initial weights of the linear map.
    """

    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        refuse(small(self, "initializer_range"))


class ZESRec(nn.Module):
    """Items by text vector, one linear map; scores are dot products, without temperature."""

    def __init__(self, config: ZESRecConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.adaptor = nn.Linear(shape.needs_features(), encoder.config.hidden_size)
        nn.init.normal_(self.adaptor.weight, std=config.initializer_range)
        nn.init.zeros_(self.adaptor.bias)
        self.encoder = encoder

    @property
    def max_length(self) -> int:
        """Longest history that is read."""
        return self.encoder.config.max_length

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Mapped text vectors [N, D]."""
        mapped: Tensor = self.adaptor(items.features)
        return mapped

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

    def pretrain_loss(self, batch: PretrainingBatch) -> Tensor:
        """Contrast of each position's state with the next items of the step."""
        sequences, vectors = batch.sequences, self.item_inputs(batch.items)
        index = (sequences.targets >= 0).nonzero().squeeze(1)
        targets = sequences.targets[index]
        users = sequences.users.repeat_interleave(sequences.offsets.diff())[index]
        queries = self.queries(sequences, vectors)[index]
        return contrastive_cross_entropy(
            Pairs(queries.float(), vectors[targets].float(), batch.items.numbers[targets], users)
        )
