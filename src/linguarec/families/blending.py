"""Puts trained models of the same items together as one, a blend (`linguarec.families.blend`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from linguarec.data.dataset import PreparedDataset
from linguarec.evaluation.case_scores import Part
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
    """The items `rows` alone, as new ones, by the parts that know how they would rank them if nobody had them; the others None.

    These are the parts of families with `keys_as_new`. If there are none, the parts that read texts rank the items by these,
    although they were trained on them.

    Args:
        parts: the models.
        dataset: the folder of their items.
        rows: the items.
    """
    reads = [part.description.family.ranks_new for part in parts]
    untrained = [part.description.family.keys_as_new is not None for part in parts]
    found: list[Part | None] = []
    for part, wanted in zip(parts, untrained if any(untrained) else reads, strict=True):
        if not wanted:
            found.append(None)
            continue
        items, keys_as_new = part.source.new_of(dataset, rows), part.description.family.keys_as_new
        if keys_as_new is None:
            keys = part.scorer.encode(items, new=True)[1]
        else:
            keys = keys_as_new(part.scorer, part.ranker, rows, items)
        ranker = part.ranker.with_added(keys).subset(len(part.ranker) + np.arange(len(rows)))
        found.append(Part.of(part.scorer, part.inputs, ranker))
    return found
