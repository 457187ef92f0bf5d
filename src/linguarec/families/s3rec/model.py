"""S3-Rec: self-supervised learning for sequential recommendation (Zhou et al., CIKM 2020, arXiv 2008.07873).

SASRec, whose weights are first trained by four tasks on the same shop, in which each place reads the whole sequence. With
states h of a sequence that has hidden places, item vectors e and attribute vectors a:

    masked item          F_mip h_t . e_j    of a hidden place, its item among all
    masked attribute     F_map h_t . a_j    of a hidden place, the attributes of its item
    attribute            F_aap h_t . a_j    of a shown place, the attributes of its item
    segment              F_sp c . s         c: last state with a segment hidden, s: with all but the segment hidden

As in UniSRec's release the attribute of an item is its text: a_j = ReLU(W x_j + b) of the text vector x_j, one class an item
(the paper has multi-hot tags). Each task is a softmax cross-entropy, over all trained items or over the segments of the step;
the paper compares one positive with one negative. After them next items are learned as by SASRec, which the model of a run is
to the tensor.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.batching.self_supervised import SelfSupervisedBatch
from linguarec.families.sasrec.model import SASRec, SASRecConfig
from linguarec.nn.gathering import Gathering
from linguarec.nn.losses import Pairs, catalogue_cross_entropy, contrastive_cross_entropy


@dataclass(frozen=True)
class S3RecConfig(SASRecConfig):
    """S3-Rec has no settings beside those of SASRec.

    Args:
        initializer_range: standard deviation of the initial item vectors.
    """


class S3Rec(SASRec):
    """Items by ID: the model after self-supervision, and the one that is used."""


@dataclass(frozen=True)
class TaskWeights:
    """Weights of the four losses."""

    item: float
    masked_attribute: float
    attribute: float
    segment: float


class S3RecLearner(nn.Module):
    """The network of the self-supervision: the model, which becomes a part of it, a mask vector, the text side, four heads."""

    def __init__(self, model: S3Rec, feature_width: int, weights: TaskWeights) -> None:
        super().__init__()
        self.model = model
        self.weights = weights
        width = model.encoder.config.hidden_size
        self.mask = nn.Parameter(torch.empty(width))
        self.adaptor = nn.Linear(feature_width, width)
        self.heads = nn.ModuleDict(
            {task: nn.Linear(width, width) for task in ("item", "masked_attribute", "attribute", "segment")}
        )
        nn.init.normal_(self.mask, std=model.config.initializer_range)
        self.adaptor.apply(self._initialise)
        self.heads.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.model.config.initializer_range)
            nn.init.zeros_(module.bias)

    def attributes(self, items: ItemBatch) -> Tensor:
        """Attribute vectors [N, D] of the items, from their texts."""
        return torch.relu(self.adaptor(items.features))

    def states(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """States [T, D], or [B, D] of the last places if `batch.only_last`; each place reads the whole sequence."""
        shown = (batch.items >= 0)[:, None]
        places = torch.where(shown, inputs.index_select(0, batch.items.clamp(min=0)), self.mask)
        states: Tensor = self.model.encoder(places, batch.positions, batch.offsets, batch.only_last, causal=False)
        return states

    def loss(self, batch: SelfSupervisedBatch, items: ItemBatch) -> Tensor:
        """This process's share of the weighted sum of the four mean losses; `items`: the classes, with text vectors."""
        inputs, attributes = self.model.item_inputs(items), self.attributes(items)
        states = self.states(batch.masked, inputs)
        hidden, shown = batch.masked.targets >= 0, batch.masked.items >= 0
        of_hidden, of_shown = states[hidden], states[shown]
        targets, places = Gathering.of(of_hidden).share, Gathering.of(of_shown).share
        own = batch.masked.targets[hidden]
        item = catalogue_cross_entropy(self.heads["item"](of_hidden), inputs, own) * targets
        masked_attribute = catalogue_cross_entropy(self.heads["masked_attribute"](of_hidden), attributes, own) * targets
        attribute = catalogue_cross_entropy(
            self.heads["attribute"](of_shown), attributes, batch.masked.items[shown]
        ) * places  # fmt: skip
        segment = contrastive_cross_entropy(self.segments(batch, inputs))
        weights = self.weights
        return (
            weights.item * item
            + weights.masked_attribute * masked_attribute
            + weights.attribute * attribute
            + weights.segment * segment
        )

    def segments(self, batch: SelfSupervisedBatch, inputs: Tensor) -> Pairs:
        """The sequences without their segments as queries, the segments as keys; negatives are the other users' segments."""
        of_rows = batch.masked.users >= 0
        users = batch.masked.users[of_rows]
        context, segment = (
            self.states(replace(part, only_last=True), inputs)[of_rows] for part in (batch.context, batch.segment)
        )
        return Pairs(self.heads["segment"](context), segment, users, users)
