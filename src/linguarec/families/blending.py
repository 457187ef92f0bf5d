"""Puts trained models of the same items together as one, a blend (`linguarec.families.blend`)."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from linguarec.ranking.sums import NewItems, SumRanker
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


def as_if_new(parts: Sequence[Ingredient], dataset: PreparedDataset, rows: IntArray) -> list[Part | None]:
    """The items `rows` alone, ranked by their texts by each part that reads texts, as if it had not been trained on them.

    Args:
        parts: the models.
        dataset: the folder of their items.
        rows: the items.
    """
    found: list[Part | None] = []
    for part in parts:
        if part.description.family.ranks_new:
            keys = part.scorer.encode(part.source.new_of(dataset, rows), new=True)[1]
            count = len(part.ranker)
            ranker = part.ranker.with_added(keys).subset(count + np.arange(len(rows)))
            found.append(Part.of(part.scorer, part.inputs, ranker))
        else:
            found.append(None)
    return found
