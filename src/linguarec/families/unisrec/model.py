"""UniSRec: universal sequence representation learning (Hou et al., KDD'22, arXiv 2206.05941).

    item        v = sum_e g_e(x) W_e (x - b_e)          parametric whitening + mixture of experts (eq. 2-5)
    history     f_1 = v_1 + p_1, ...; F = Transformer(f); s = F at the last position (eq. 6-7)
    score       cos(s, v) / temperature                 inductive: text only (eq. 12)
                cos(s, v + e) / temperature             transductive: text + ID embedding e (eq. 13)
    pre-train   s finds the next item among those of the whole step, from all domains      sequence-item contrast
                s finds the state of its own augmented view among those of the step        sequence-sequence contrast

Differences from the released code: the adaptor runs once for each catalogue item and step instead of once for each cell of the
padded history (equal without dropout and noise); in training, inputs and scored items therefore share one dropout and gate
noise draw. Normalised vectors use torch's epsilon. In pre-training every position is a pair of the sequence-item contrast, and
the view of a sequence is compared once, at its last position; targets that are not negatives are left out of the softmax (the
released code sets their logits to 0).
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.pretraining import PretrainingBatch
from linguarec.checks import above_zero, at_least, probabilities, refuse, size, small
from linguarec.families.unisrec.adaptor import MixtureOfExpertsAdaptor
from linguarec.nn.cosine import CosineRecommender
from linguarec.nn.encoders import SequenceEncoder
from linguarec.nn.losses import Pairs, contrastive_cross_entropy
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned


@dataclass(frozen=True)
class UniSRecConfig:
    """Settings of the text side, defaults as published.

    Args:
        experts: number of whitening experts in the adaptor.
        adaptor_dropout: dropout of the text vectors before the experts.
        temperature: divisor of the cosines.
        sequence_contrast: weight of the sequence-sequence contrast in pre-training.
        initializer_range: standard deviation of the initial weights.
    """

    experts: int = size(8)
    adaptor_dropout: float = tuned(0.2, low=0.0, high=0.6)
    temperature: float = tuned(0.07, low=0.02, high=0.3, log=True)
    sequence_contrast: float = 1e-3
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        problems = at_least(self, experts=1, sequence_contrast=0) + above_zero(self, "temperature")
        refuse(problems + probabilities(self, "adaptor_dropout") + small(self, "initializer_range"))


class UniSRec(CosineRecommender):
    """Inductive UniSRec: items by text only."""

    config: UniSRecConfig

    def __init__(self, config: UniSRecConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__(config, shape, encoder)
        self.adaptor = MixtureOfExpertsAdaptor(
            shape.needs_features(),
            encoder.config.hidden_size,
            config.experts,
            config.adaptor_dropout,
            config.initializer_range,
        )

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Item vectors [N, D], the inputs of the sequence encoder."""
        assert items.features is not None
        adapted: Tensor = self.adaptor(items.features)
        return adapted

    def pretrain_loss(self, batch: PretrainingBatch, masked_logit: float = -math.inf) -> Tensor:
        """Sequence-item contrast plus the weighted sequence-sequence contrast (if the batch has views).

        `masked_logit`: see `contrastive_cross_entropy`.
        """
        inputs = self.item_inputs(batch.items)
        queries = self.queries(batch.sequences, inputs)
        pairs = self.pairs(batch.sequences, batch.items, queries, inputs)
        loss = contrastive_cross_entropy(pairs, masked_logit=masked_logit)
        if batch.augmented is None or not self.config.sequence_contrast:
            return loss
        views = self.queries(batch.augmented, inputs)[batch.augmented.last] / self.config.temperature
        next_items = batch.sequences.targets[batch.sequences.last]
        asked = (next_items >= 0).nonzero().squeeze(1)
        sequences = Pairs(
            queries[batch.sequences.last][asked],
            views[asked],
            batch.items.numbers[next_items[asked]],
            batch.sequences.users[asked],
        )
        return loss + self.config.sequence_contrast * contrastive_cross_entropy(sequences, masked_logit=masked_logit)


class UniSRecTransductive(UniSRec):
    """Transductive UniSRec: text + ID. The ID term of a new item is zero."""

    def __init__(self, config: UniSRecConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__(config, shape, encoder)
        self.item = nn.Embedding(shape.num_items, encoder.config.hidden_size)
        nn.init.normal_(self.item.weight, std=config.initializer_range)

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Item vectors [N, D]: adapted text + ID embedding."""
        known = (items.rows >= 0).unsqueeze(-1)
        vectors: Tensor = super().item_inputs(items) + self.item(items.rows.clamp(min=0)) * known
        return vectors
