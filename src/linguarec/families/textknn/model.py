"""Text-kNN: the items whose text is nearest to the texts of the history; nothing is trained.

    query = sum over the history of decay ^ (steps ago) * v / |v|        score of an item = query . its v / |v|

with v the text vector of an item, minus the mean vector of the catalogue it was fitted on: the cosines of uncentred vectors
of a language model are all large and alike. This is the least that a model which reads must beat, and it ranks new items.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.checks import LARGEST, above_zero, refuse
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned


@dataclass(frozen=True)
class TextKNNConfig:
    """Settings of text-kNN.

    Args:
        decay: weight of a history's item relative to the one after it; 1 = order does not count.
    """

    decay: float = tuned(0.7, low=0.1, high=1.0)

    def __post_init__(self) -> None:
        problems = above_zero(self, "decay")
        if self.decay > 1:
            problems.append(f"decay is {self.decay}; it must be at most 1")
        refuse(problems)


class TextKNN(nn.Module):
    """Items by text vector: `mean` [F], of the catalogue."""

    mean: Tensor

    def __init__(self, config: TextKNNConfig, shape: CatalogueShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.needs_features()))

    @property
    def max_length(self) -> int:
        """Longest history that is read: of any length."""
        return LARGEST

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Vectors [N, F] of the items, of length 1; zero for an item whose vector is the mean."""
        assert items.features is not None
        return F.normalize(items.features.float() - self.mean, dim=-1)

    def item_keys(self, items: ItemBatch) -> Tensor:
        """Keys [N, F]: the same vectors."""
        return self.item_inputs(items)

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """Query [B, F] of each history: the sum of its vectors, weighted by recency."""
        vectors = inputs.index_select(0, batch.items)
        weights = torch.pow(self.config.decay, batch.steps_ago.to(torch.float64)).to(vectors.dtype).unsqueeze(1)
        return vectors.new_zeros(len(batch), vectors.shape[1]).index_add(0, batch.sequence, weights * vectors)
