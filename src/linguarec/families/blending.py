"""Puts trained models of the same items together as one, a blend (`linguarec.families.blend`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from linguarec.families.blend.items import BlendInputs, BlendSource
from linguarec.families.blend.method import BLEND, BlendPart, BlendScorer
from linguarec.families.blend.model import Blend, BlendConfig
from linguarec.families.family import ModelDescription
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.scorer import Scorer
from linguarec.ranking.sums import SumRanker
from linguarec.sources.source import ItemSource


@dataclass(frozen=True)
class Ingredient:
    """A trained model on its items: what a run in use holds of it."""

    scorer: Scorer
    description: ModelDescription
    source: ItemSource
    inputs: Any
    ranker: ExactRanker[Any, Any]


def blended(parts: Sequence[Ingredient], weights: Sequence[float], folder: Path) -> Ingredient:
    """The weighted sum of models of the same items, in the same order.

    Args:
        parts: the models.
        weights: one for each.
        folder: that it will be stored in.
    """
    count = len(parts[0].ranker)
    shape = CatalogueShape(count)
    config = BlendConfig(len(parts))
    network = Blend(config, shape).eval()
    network.weights.copy_(torch.tensor(weights, dtype=torch.float64))
    return Ingredient(
        BlendScorer(network, [BlendPart(part.scorer, part.description) for part in parts]),
        ModelDescription(BLEND, config, None, shape),
        BlendSource(folder, [part.source for part in parts], count),
        BlendInputs([part.inputs for part in parts]),
        SumRanker([part.ranker for part in parts], weights),
    )
