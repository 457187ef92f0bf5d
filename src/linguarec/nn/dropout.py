"""Dropout whose random numbers are cheap on a CPU."""

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """Zero each element with `probability` while training and scale the others by 1 / (1 - probability).

    The same distribution as `torch.nn.Dropout` up to rounding the probability to 1/65536, drawn from torch's default generator.
    On a CPU one 64-bit draw serves four elements: the stock operator draws one number per element, sequentially, and took
    more time than any matrix product of a step (see bench/README.md).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout probability must be in [0, 1), found {probability}")
        self.probability = probability

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply to a tensor of any shape."""
        if not self.training or self.probability == 0:
            return inputs
        if inputs.device.type != "cpu":
            return nn.functional.dropout(inputs, self.probability)
        return inputs * keep_mask(inputs, self.probability)

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


def keep_mask(like: Tensor, probability: float) -> Tensor:
    """A tensor of the shape and type of `like` (float32 or bfloat16): 0 with `probability`, else 1 / (1 - probability)."""
    dropped_levels = min(round(probability * _LEVELS), _LEVELS - 1)
    if dropped_levels == 0:
        return torch.ones_like(like)
    draws = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    lowest_kept = dropped_levels - _LEVELS // 2
    # 0 where dropped, all bits where kept, without a bool tensor, whose conversion would take most of the time.
    bits = draws.view(torch.int16)[: like.numel()].clamp_(lowest_kept - 1, lowest_kept).sub_(lowest_kept).bitwise_not_()
    scale = torch.tensor(_LEVELS / (_LEVELS - dropped_levels), dtype=like.dtype)
    integers = torch.int16 if like.dtype == torch.bfloat16 else torch.int32
    return bits.to(integers).bitwise_and_(scale.view(integers)).view(like.dtype).view(like.shape)
