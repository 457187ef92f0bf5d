"""BERT4Rec on padded histories, for export."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.families.bert4rec.model import BERT4Rec
from linguarec.families.padded import PaddedModel, with_tables
from linguarec.nn.padded import padded_batch, with_padded_encoders
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.scorer import Scorer


class PaddedBERT4Rec(nn.Module):
    """The query of each history, from a hidden place behind it."""

    def __init__(self, network: BERT4Rec) -> None:
        super().__init__()
        self.network = cast(BERT4Rec, with_padded_encoders(network))

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Item inputs [B, L, D], zero behind the end, and lengths [B] int64, each from 1 to L -> [B, D + 1]."""
        longer = F.pad(items, (0, 0, 0, 1))
        shown = torch.arange(longer.shape[1], device=items.device) < lengths[:, None]
        places = torch.where(shown[:, :, None], longer, self.network.mask)
        batch = padded_batch(places, lengths + 1)
        states = self.network.encoder(
            places.flatten(0, 1), batch.positions, batch.offsets, only_last=True, causal=False
        )
        return self.network.asking(states)


def padded(scorer: Scorer, inputs: Any, ranker: ExactRanker[Any, Any]) -> PaddedModel:
    """The model for export; the hidden place takes one of the `max_length` places."""
    network = PaddedBERT4Rec(cast(BERT4Rec, scorer.network))
    return with_tables(network, inputs, ranker, scorer.max_length - 1)
