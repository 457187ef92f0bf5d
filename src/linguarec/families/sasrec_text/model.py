"""SASRec on text: SASRec with items represented by their text vectors only (the `SASRec_T` row of the VQ-Rec tables).

A text vector is mapped to the hidden size by one linear layer; history and score work on the mapped vectors. Scores are
cosines over a temperature, as in UniSRec, so that the two differ in the adaptor only.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.checks import above_zero, probabilities, refuse, small
from linguarec.nn.cosine import CosineRecommender
from linguarec.nn.dropout import Dropout
from linguarec.nn.encoders import SequenceEncoder
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned


@dataclass(frozen=True)
class SASRecTextConfig:
    """Settings of the text side.

    Args:
        feature_dropout: dropout of the text vectors before the linear map.
        temperature: divisor of the cosines.
        initializer_range: standard deviation of the initial weights.
    """

    feature_dropout: float = tuned(0.2, low=0.0, high=0.6)
    temperature: float = tuned(0.07, low=0.02, high=0.3, log=True)
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        problems = above_zero(self, "temperature") + probabilities(self, "feature_dropout")
        refuse(problems + small(self, "initializer_range"))


class SASRecText(CosineRecommender):
    """Items by text vector, one linear map."""

    def __init__(self, config: SASRecTextConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__(config, shape, encoder)
        self.dropout = Dropout(config.feature_dropout)
        self.adaptor = nn.Linear(shape.needs_features(), encoder.config.hidden_size)
        nn.init.normal_(self.adaptor.weight, std=config.initializer_range)
        nn.init.zeros_(self.adaptor.bias)

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Mapped text vectors [N, D]."""
        mapped: Tensor = self.adaptor(self.dropout(items.features))
        return mapped
