"""A blend: the score of an item is the weighted sum of its scores by several models, its parts.

    score(i | history) = sum over parts m of weights[m] * score_m(i | history)
    for new items:       sum over parts m of new_weights[m] * score_m(i | history) + new_offset

A new item is in no training sequence. The weights are chosen with the parts fixed (`linguarec.evaluation.choosing`,
`linguarec.evaluation.new_items`). Where scores are query . key,
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
    """`weights`, `new_weights` [M] float64, one for each part, `new_offset` [1]; the parts are opened beside it."""

    weights: Tensor
    new_weights: Tensor
    new_offset: Tensor

    def __init__(self, config: BlendConfig, shape: CatalogueShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        for name, count in (("weights", config.parts), ("new_weights", config.parts), ("new_offset", 1)):
            self.register_buffer(name, torch.zeros(count, dtype=torch.float64))
