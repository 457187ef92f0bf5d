"""A blend on padded histories, for export: the parts with item vectors side by side, the others are left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linguarec.families.padded import PaddedModel


class SideBySide(nn.Module):
    """Queries [B, sum of Dk] of all parts, each times its weight, from inputs [B, L, sum of D]."""

    def __init__(self, parts: Sequence[PaddedModel], weights: Sequence[float]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(part.network for part in parts)
        self.widths = [part.inputs.shape[1] for part in parts]
        self.max_lengths = [part.max_length for part in parts]
        self.weights = list(weights)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Item inputs [B, L, D], zero behind the end, and lengths [B] int64, each from 1 to L -> queries."""
        found = [
            weight * network(*last_items(own, lengths, longest))
            for network, own, longest, weight in zip(
                self.networks, items.split(self.widths, dim=2), self.max_lengths, self.weights, strict=True
            )
        ]
        return torch.cat(found, dim=1)


def last_items(items: Tensor, lengths: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
    """The last `max_length` items of each history moved to its front [B, L, D], and how many they are [B]."""
    left_out = (lengths - max_length).clamp(min=0)
    places = torch.arange(items.shape[1], device=items.device) + left_out[:, None]
    places = places.clamp(max=items.shape[1] - 1)
    moved = items.gather(1, places[:, :, None].expand(-1, -1, items.shape[2]))
    return moved, lengths - left_out


def side_by_side(
    parts: Sequence[PaddedModel], weights: Sequence[float], left_out: Sequence[Mapping[str, Any]]
) -> PaddedModel:
    """The weighted sum of the parts, of the same items, as one model."""
    return PaddedModel(
        SideBySide(parts, weights).eval(),
        torch.cat([part.inputs for part in parts], dim=1),
        torch.cat([part.keys for part in parts], dim=1),
        max(part.max_length for part in parts),
        left_out,
    )
