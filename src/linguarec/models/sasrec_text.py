"""SASRec on text: SASRec whose items are known by their text vector alone (the `SASRec_T` row of the VQ-Rec tables).

A text vector is mapped to the hidden size by one linear layer; history and score work on the mapped vectors. Scores are
cosines over a temperature, as in UniSRec, so that the two differ in the adaptor only.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.models.shape import CatalogueShape
from linguarec.nn.dropout import Dropout
from linguarec.nn.encoders import SequenceEncoder
from linguarec.nn.losses import catalogue_cross_entropy


@dataclass(frozen=True)
class SASRecTextConfig:
    """Settings of the text side.

    Args:
        feature_dropout: dropout of the text vectors before the linear map.
        temperature: cosines are divided by it.
        initializer_range: standard deviation of the initial weights.
    """

    feature_dropout: float = 0.2
    temperature: float = 0.07
    initializer_range: float = 0.02


class SASRecText(nn.Module):
    """Items by text vector, one linear map."""

    def __init__(self, config: SASRecTextConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.dropout = Dropout(config.feature_dropout)
        self.adaptor = nn.Linear(shape.needs_features(), encoder.config.hidden_size)
        nn.init.normal_(self.adaptor.weight, std=config.initializer_range)
        nn.init.zeros_(self.adaptor.bias)
        self.encoder = encoder

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Mapped text vectors [N, D]."""
        mapped: Tensor = self.adaptor(self.dropout(items.features))
        return mapped

    def item_keys(self, items: ItemBatch) -> Tensor:
        """What is scored [N, D]: normalised, over the temperature."""
        return self._keys(self.item_inputs(items))

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """Normalised state [T, D] of each position, having read it and all before."""
        states = self.encoder(inputs.index_select(0, batch.items), batch.positions, batch.offsets)
        return F.normalize(states.float(), dim=-1)

    def finetune_loss(self, batch: SequenceBatch, items: ItemBatch) -> Tensor:
        """Mean cross-entropy of the next item over the catalogue `items`."""
        inputs = self.item_inputs(items)
        return catalogue_cross_entropy(self.queries(batch, inputs), self._keys(inputs), batch.targets)

    def _keys(self, inputs: Tensor) -> Tensor:
        return F.normalize(inputs.float(), dim=-1) / self.config.temperature
