"""BERT4Rec: sequential recommendation with bidirectional encoder representations (Sun et al., CIKM 2019, arXiv 1904.06690).

    place    x_t = e_(v_t) + p_t            a learned vector instead of e where the item is hidden
    state    H = Transformer(LayerNorm(x))  each place reads the whole sequence
    query    g_t = LayerNorm(GELU(W h_t + c))
    score    g . e_i + b_i                  one item table for input and output

Training hides some places of a sequence (the cloze task); the loss is the cross-entropy over the items at the hidden places. A
history is continued by one hidden place behind it, whose g is the query; a history that fills all places loses its oldest item.

The bias is one more coordinate: query [g, 1], key [e_i, b_i]. A new item has the key zero. Hidden places are always replaced
by the mask vector, as in the paper's own trainings.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.checks import fractions, probabilities, refuse, small
from linguarec.nn.encoders import SequenceEncoder, TransformerEncoder
from linguarec.nn.next_item import next_item_loss
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned


@dataclass(frozen=True)
class BERT4RecConfig:
    """Settings of the cloze task and of the initial weights.

    Args:
        mask_share: fraction of the places of a training sequence that are hidden, at least one.
        last_share: fraction of the training sequences of which the last place alone is hidden, as in use.
        initializer_range: standard deviation of the initial item vectors, the mask vector and W.
    """

    mask_share: float = tuned(0.2, low=0.05, high=0.8)
    last_share: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        problems = probabilities(self, "mask_share") + fractions(self, "last_share")
        refuse(problems + small(self, "initializer_range"))


class OutputHead(nn.Module):
    """LayerNorm(GELU(W h + c)), [T, D] -> [T, D]."""

    def __init__(self, width: int, layer_norm_eps: float, initializer_range: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        nn.init.normal_(self.dense.weight, std=initializer_range)
        nn.init.zeros_(self.dense.bias)

    def forward(self, states: Tensor) -> Tensor:
        """States [T, D] -> [T, D]."""
        normed: Tensor = self.norm(nn.functional.gelu(self.dense(states)))
        return normed


class BERT4Rec(nn.Module):
    """Items by ID: `item.weight` [N, D] and `bias` [N], row = catalogue row; `mask` [D].

    Raises:
        ValueError: the encoder is not a Transformer.
    """

    def __init__(self, config: BERT4RecConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__()
        if not isinstance(encoder, TransformerEncoder):
            raise ValueError("BERT4Rec reads a sequence both ways; its sequence encoder must be the Transformer")
        self.config = config
        self.shape = shape
        width = encoder.config.hidden_size
        self.item = nn.Embedding(shape.num_items, width)
        self.bias = nn.Parameter(torch.zeros(shape.num_items))
        self.mask = nn.Parameter(torch.empty(width))
        for weight in (self.item.weight, self.mask):
            nn.init.normal_(weight, std=config.initializer_range)
        self.encoder = encoder
        self.head = OutputHead(width, encoder.config.layer_norm_eps, config.initializer_range)

    @property
    def max_length(self) -> int:
        """Most places of a sequence. Of a history that fills them the oldest item is left out, for the hidden place."""
        return self.encoder.config.max_length

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Vectors [N, D] of the items; zero for items without a row."""
        known = (items.rows >= 0).unsqueeze(-1)
        vectors: Tensor = self.item(items.rows.clamp(min=0)) * known
        return vectors

    def item_keys(self, items: ItemBatch) -> Tensor:
        """Keys [N, D + 1]: the same vectors, and the bias."""
        bias = self.bias[items.rows.clamp(min=0)] * (items.rows >= 0)
        return torch.cat([self.item_inputs(items), bias[:, None]], dim=1)

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """The query [B, D + 1] of each history, from a hidden place behind it; a history may be empty."""
        asked = with_hidden_end(batch, self.max_length)
        places = self._places(asked, inputs)
        return self.asking(self.encoder(places, asked.positions, asked.offsets, only_last=True, causal=False))

    def finetune_loss(self, batch: SequenceBatch, items: ItemBatch) -> Tensor:
        """Mean loss of the hidden items of `batch` over the catalogue `items` or a sample of it; see `next_item_loss`."""
        places = self._places(batch, self.item_inputs(items))
        states = self.encoder(places, batch.positions, batch.offsets, causal=False)
        hidden = batch.targets >= 0
        asked = replace(batch, targets=batch.targets[hidden])
        return next_item_loss(self.asking(states[hidden]), self.item_keys(items), asked)

    def _places(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """[T, D] that the encoder reads: the inputs of the items, and the mask vector at hidden places."""
        places = self.mask.to(inputs.dtype).repeat(len(batch.items), 1)
        shown = batch.items >= 0
        places[shown] = inputs.index_select(0, batch.items[shown])
        return places

    def asking(self, states: Tensor) -> Tensor:
        """States [T, D] of hidden places -> queries [T, D + 1]; the last coordinate is that of the bias."""
        asked = self.head(states)
        return torch.cat([asked, asked.new_ones(asked.shape[0], 1)], dim=1)


def with_hidden_end(batch: SequenceBatch, places: int) -> SequenceBatch:
    """The histories with one hidden place behind each; of a history of `places` items or more the oldest are left out."""
    lengths = batch.offsets[1:] - batch.offsets[:-1]
    kept = lengths.clamp(max=places - 1)
    offsets = torch.cat([lengths.new_zeros(1), (kept + 1).cumsum(0)])
    tokens = torch.arange(len(batch.items), device=lengths.device)
    items = batch.items[tokens >= (batch.offsets[1:] - kept).repeat_interleave(lengths)]
    shown = torch.ones(len(items) + len(batch), dtype=torch.bool, device=lengths.device)
    shown[offsets[1:] - 1] = False
    places_read = items.new_full((len(shown),), -1)
    places_read[shown] = items
    positions = torch.arange(len(shown), device=lengths.device) - offsets[:-1].repeat_interleave(kept + 1)
    return replace(batch, items=places_read, offsets=offsets, positions=positions)
