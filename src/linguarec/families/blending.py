"""Puts trained models of the same items together as one, a blend (`linguarec.families.blend`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from linguarec.data.dataset import PreparedDataset
from linguarec.evaluation.stacking import Part
from linguarec.families.blend.items import BlendInputs, BlendSource
from linguarec.families.blend.method import BLEND, BlendPart, BlendScorer
from linguarec.families.blend.model import Blend, BlendConfig
from linguarec.families.family import ModelDescription
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.scorer import Scorer
from linguarec.ranking.sums import NewItems, SumRanker, keys_of_new
from linguarec.sources.source import ItemSource

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ingredient:
    """A trained model on its items: what a run in use holds of it."""

    scorer: Scorer
    description: ModelDescription
    source: ItemSource
    inputs: Any
    ranker: ExactRanker[Any, Any]

    @property
    def reads_new(self) -> bool:
        """Whether it ranks items that it was not trained on."""
        return self.description.family.ranks_new


def blended(
    parts: Sequence[Ingredient], weights: Sequence[float], folder: Path, new: NewItems | None = None
) -> Ingredient:
    """The weighted sum of models of the same items, in the same order.

    Args:
        parts: the models.
        weights: one for each.
        folder: that it will be stored in.
        new: how new items are scored, and which these are; None = there are none, and added ones are scored like the others.
    """
    new = NewItems(tuple(weights)) if new is None else new
    count = len(parts[0].ranker)
    shape = CatalogueShape(count)
    config = BlendConfig(len(parts))
    network = Blend(config, shape).eval()
    network.weights.copy_(torch.tensor(weights, dtype=torch.float64))
    network.new_weights.copy_(torch.tensor(new.weights, dtype=torch.float64))
    network.new_offset.fill_(new.offset)
    return Ingredient(
        BlendScorer(network, [BlendPart(part.scorer, part.description) for part in parts]),
        ModelDescription(BLEND, config, None, shape),
        BlendSource(folder, [part.source for part in parts], count),
        BlendInputs([part.inputs for part in parts]),
        SumRanker([part.ranker for part in parts], weights, new),
    )


def with_new_items(parts: Sequence[Ingredient], rows: IntArray) -> list[Ingredient]:
    """The parts, with the items `rows`, which no model was trained on, known to each part: by text, or by what is nearest."""
    if not len(rows):
        return list(parts)
    rankers = [part.ranker for part in parts]
    keys = [part.ranker.subset(rows).keys if part.reads_new else None for part in parts]
    whole = keys_of_new(rankers, keys, rows)
    order = np.arange(len(rankers[0]))
    order[rows] = len(order) + np.arange(len(rows))
    return [
        part if part.reads_new else replace(part, ranker=part.ranker.with_added(own).subset(order))
        for part, own in zip(parts, whole, strict=True)
    ]


def as_if_new(parts: Sequence[Ingredient], dataset: PreparedDataset, rows: IntArray, unknown: IntArray) -> list[Part]:
    """The items `rows` alone, ranked by each part as if it had not been trained on them.

    Parts that read texts read theirs; a part that knows items by ID gives them what is nearest to them (`keys_of_new`).

    Args:
        parts: the models.
        dataset: the folder of their items.
        rows: the items.
        unknown: further items that no model was trained on.
    """
    keys = [
        part.scorer.encode(part.source.new_of(dataset, rows), new=True)[1] if part.reads_new else None for part in parts
    ]
    whole = keys_of_new([part.ranker for part in parts], keys, np.union1d(rows, unknown))
    count = len(parts[0].ranker)
    return [
        Part.of(part.scorer, part.inputs, part.ranker.with_added(own).subset(count + np.arange(len(rows))))
        for part, own in zip(parts, whole, strict=True)
    ]
