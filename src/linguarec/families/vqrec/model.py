"""VQ-Rec: vector-quantised item representations (Hou et al., TheWebConf'23, arXiv 2210.12316).

    item        text vector -> M codes of an optimised product quantiser (done once, outside the network)
                v = mean over m of E_m[code_m]          learned code embeddings (eq. 3)
    history     SASRec's Transformer over v
    score       cos(s, v) / temperature                 (eq. 5)

In pre-training a state finds the next item among those of the whole step, from all domains, and one semi-synthetic item: the
next item's code with some numbers replaced at random. Targets that are not negatives are left out of the softmax (the released
code sets their logits to 0).

A new item needs only its codes. When training from scratch, the released code freezes the sequence encoder; linguarec trains
all of it.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from linguarec.batching.batches import ItemBatch
from linguarec.batching.pretraining import PretrainingBatch
from linguarec.checks import above_zero, refuse, small
from linguarec.families.vqrec.code_embedding import CodeEmbedding
from linguarec.nn.cosine import CosineRecommender
from linguarec.nn.encoders import SequenceEncoder
from linguarec.nn.losses import contrastive_cross_entropy
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned


@dataclass(frozen=True)
class VQRecConfig:
    """Settings of the code side.

    Args:
        temperature: divisor of the cosines.
        initializer_range: standard deviation of the initial code embeddings. An item is the mean of M of them, which
            shrinks it by sqrt(M): with the usual 0.02 the position embeddings would dominate the items at the start.
    """

    temperature: float = tuned(0.07, low=0.02, high=0.3, log=True)
    initializer_range: float = 0.2

    def __post_init__(self) -> None:
        refuse(above_zero(self, "temperature") + small(self, "initializer_range"))


class VQRec(CosineRecommender):
    """Items by their codes [N, M]."""

    def __init__(self, config: VQRecConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__(config, shape, encoder)
        code_books, centroids = shape.needs_codes()
        self.codes = CodeEmbedding(code_books, centroids, encoder.config.hidden_size, config.initializer_range)

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Item vectors [N, D], the inputs of the sequence encoder."""
        pooled: Tensor = self.codes(items.codes)
        return pooled

    def pretrain_loss(self, batch: PretrainingBatch, masked_logit: float = -math.inf) -> Tensor:
        """Contrast of each next item with those of the whole step, from all domains, and with its own semi-synthetic variant.

        `masked_logit`: see `contrastive_cross_entropy`.
        """
        inputs = self.item_inputs(batch.items)
        pairs = self.pairs(batch.sequences, batch.items, self.queries(batch.sequences, inputs), inputs)
        negatives = None if batch.negatives is None else self._keys(self.codes(batch.negatives))
        return contrastive_cross_entropy(pairs, negatives, masked_logit)
