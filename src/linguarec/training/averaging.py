"""A running mean of the weights over the steps of a training, with less variance than the weights of a single step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, power: float) -> AveragedModel:
    """A copy of `model` for the mean of its weights, in which step t counts as t^power.

    The polynomial-decay averaging of Shamir and Zhang (arXiv 1212.1824, section 4): early steps lose their weight at any length
    of training, so that no horizon has to be chosen.
    """
    mean = AveragedModel(model, multi_avg_fn=_polynomial(power))
    mean.requires_grad_(False)
    return mean


def _polynomial(power: float) -> Callable[[Any, Any, Any], None]:
    @torch.no_grad()
    def update(mean: list[Tensor], current: list[Tensor], steps_before: Tensor | int) -> None:
        torch._foreach_lerp_(mean, current, (power + 1) / (float(steps_before) + 1 + power))

    return update
