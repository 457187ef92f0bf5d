"""A blend: the score of an item is the weighted sum of its scores by several models, its parts.

    score(i | history) = sum over parts m of weights[m] * score_m(i | history)

The weights are fitted with the parts fixed (softmax stacking: `linguarec.evaluation.stacking`). Where scores are query . key,
the sum is one model, whose queries times weights and keys stand side by side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linguarec.checks import at_least, refuse, size
from linguarec.nn.shape import CatalogueShape


@dataclass(frozen=True)
class BlendConfig:
    """Settings of a blend.

    Args:
        parts: number of models.
    """

    parts: int = size(2)

    def __post_init__(self) -> None:
        refuse(at_least(self, parts=1))


class Blend(nn.Module):
    """`weights` [M] float64, one for each part; the parts themselves are opened beside it."""

    weights: Tensor

    def __init__(self, config: BlendConfig, shape: CatalogueShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.register_buffer("weights", torch.zeros(config.parts, dtype=torch.float64))
