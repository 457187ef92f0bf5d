"""RecGURU: generalised user representations for cross-domain recommendation (Li et al., WSDM 2022, arXiv 2111.10093).

    user          h_t = Encoder(e_1, ..., e_t)                   one encoder for all shops, item vectors e of each shop
    rebuild       L_rec = -sum_t log p(v_(t+1) | v_1..t, h_n)    Decoder of the shop, softmax over its items
    align         L_dis = -log p(shop | reverse(h_n))            a classifier guesses the shop; the encoder learns to mislead it
    recommend     q_t = Decoder(e_1, ..., e_t; h_1, ..., h_t)    score q_t . e, softmax over the catalogue

First L_rec alone, then L_rec + weight * L_dis, over several shops, of which the one to recommend in is the first; then its next
items, from the item vectors, the encoder and the decoder that this left.

Differences from the paper and its code. The user vector of a position is the causal encoder's state there. The code encodes
the whole training sequence, both ways, so that in training the vector knows the items that it is asked for. The adversary is
one loss behind a gradient reversal, for any number of shops; the code alternates a Wasserstein critic with the rest. The first
item of a sequence is not rebuilt, so that positions mean the same as in recommending. The term for users of two shops is left
out, as no user is known in two. The recommender is the decoder, which is an option of the code.

A new item has no vector: it is read and scored as the zero vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.checks import at_least, probabilities, refuse, size, small
from linguarec.nn.decoder import Decoder
from linguarec.nn.encoders import SequenceEncoder, TransformerConfig
from linguarec.nn.gathering import Gathering
from linguarec.nn.losses import catalogue_cross_entropy
from linguarec.nn.next_item import next_item_loss
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned


@dataclass(frozen=True)
class RecGURUConfig:
    """Settings of the decoder, which is a Transformer of the encoder's width and length.

    It has learned positions unless the encoder is a Transformer without.

    Args:
        decoder_layers: number of decoder layers.
        decoder_heads: attention heads of the decoder; must divide the hidden size.
        decoder_inner_size: width of the decoder's feed-forward layer.
        decoder_dropout: of the decoder's inputs, attention weights and sub-layers.
        initializer_range: standard deviation of the initial item vectors and decoder weights.
    """

    decoder_layers: int = size(1)
    decoder_heads: int = size(2)
    decoder_inner_size: int = size(256)
    decoder_dropout: float = tuned(0.5, low=0.0, high=0.8)
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        problems = at_least(self, decoder_layers=1, decoder_heads=1, decoder_inner_size=1)
        refuse(problems + probabilities(self, "decoder_dropout") + small(self, "initializer_range"))


class RecGURU(nn.Module):
    """The model of one shop: `item.weight` [N, D], row = catalogue row; encoder of the user vectors, decoder of the queries."""

    def __init__(self, config: RecGURUConfig, shape: CatalogueShape, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.item = item_table(shape.num_items, encoder.config.hidden_size, config)
        self.encoder = encoder
        self.decoder = Decoder(
            TransformerConfig(
                hidden_size=encoder.config.hidden_size,
                layers=config.decoder_layers,
                heads=config.decoder_heads,
                inner_size=config.decoder_inner_size,
                dropout=config.decoder_dropout,
                max_length=encoder.config.max_length,
                initializer_range=config.initializer_range,
                positions=encoder.config.positions if isinstance(encoder.config, TransformerConfig) else "learned",
            )
        )

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
        users = self.encoder(inputs, batch.positions, batch.offsets)
        states: Tensor = self.decoder(inputs, users, batch.positions, batch.offsets, batch.only_last)
        return states

    def finetune_loss(self, batch: SequenceBatch, items: ItemBatch) -> Tensor:
        """Mean loss of the next item over the catalogue `items` or a sample of it; see `next_item_loss`."""
        vectors = self.item_inputs(items)
        queries = self.queries(batch, vectors)
        return next_item_loss(queries, vectors, batch)


class AlignedShops(nn.Module):
    """The networks of several shops, for the alignment: all share the encoder of `model`, which is the first shop's.

    Args:
        model: of the first shop; becomes a part of it.
        num_items: catalogue sizes of the other shops.
    """

    def __init__(self, model: RecGURU, num_items: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        width = model.encoder.config.hidden_size
        self.other_items = nn.ModuleList(item_table(count, width, model.config) for count in num_items)
        self.other_decoders = nn.ModuleList(Decoder(model.decoder.config) for _ in num_items)
        self.classifier = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1 + len(num_items)))

    @property
    def items(self) -> list[nn.Embedding]:
        """The item table of each shop."""
        return [self.model.item, *self.other_items]

    @property
    def decoders(self) -> list[Decoder]:
        """The decoder of each shop."""
        return [self.model.decoder, *self.other_decoders]

    def users(self, shop: int, batch: SequenceBatch) -> Tensor:
        """User vectors [B, D] of whole sequences, whose `items` are rows of the shop."""
        inputs = self.items[shop](batch.items)
        states: Tensor = self.model.encoder(inputs, batch.positions, batch.offsets, True)
        return states

    def losses(self, parts: Sequence[SequenceBatch], classes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L_rec, the mean over the targets of this process, and L_dis, this process's share of the mean over all users.

        Args:
            parts: the sequences of each shop; `items` are its rows, `targets` [T] indices into its classes, -1 = none.
            classes: [C] rows of each shop over which the softmax runs.
        """
        targets = [(part.targets >= 0).sum() for part in parts]
        total = torch.stack(targets).sum().clamp(min=1)
        users, shops, rebuilt = [], [], []
        for shop, part in enumerate(parts):
            table, decoder = self.items[shop], self.decoders[shop]
            if not len(part):  # still part of the graph, because other processes wait for the gradients
                rebuilt += [weight.sum() * 0 for weight in (table.weight, *decoder.parameters())]
                continue
            user = self.users(shop, part)
            memory = user.repeat_interleave(part.offsets.diff(), dim=0)
            states = decoder(table(part.items), memory, part.positions, part.offsets)
            loss = catalogue_cross_entropy(states, table(classes[shop]), part.targets)
            rebuilt.append(loss * targets[shop] / total)
            users.append(user)
            shops += [shop] * len(user)
        read = torch.cat(users)
        guesses = self.classifier(reverse_gradient(read.float()))
        guessed = F.cross_entropy(guesses.float(), torch.tensor(shops, device=read.device))
        return torch.stack(rebuilt).sum(), guessed * Gathering.of(read).share


def item_table(count: int, width: int, config: RecGURUConfig) -> nn.Embedding:
    """Fresh item vectors [count, width]."""
    table = nn.Embedding(count, width)
    nn.init.normal_(table.weight, std=config.initializer_range)
    return table


class _Reversed(torch.autograd.Function):
    """Forward: the identity. Backward: the gradient with the opposite sign (Ganin and Lempitsky, arXiv 1409.7495)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def reverse_gradient(values: Tensor) -> Tensor:
    """The values unchanged; what is before them learns the opposite of what is behind them."""
    reversed_: Tensor = _Reversed.apply(values)  # type: ignore[no-untyped-call]
    return reversed_
