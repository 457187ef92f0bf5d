"""A blend on padded histories, for export: the parts with item vectors side by side, the others are left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from linguarec.families.padded import PaddedModel

FloatArray = npt.NDArray[np.float64]


class SideBySide(nn.Module):
    """Queries [B, sum of Dk] of all parts from inputs [B, L, sum of D]; a last number 1 with `constant`."""

    def __init__(self, parts: Sequence[PaddedModel], constant: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(part.network for part in parts)
        self.widths = [part.inputs.shape[1] for part in parts]
        self.max_lengths = [part.max_length for part in parts]
        self.constant = constant

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Item inputs [B, L, D], zero behind the end, and lengths [B] int64, each from 1 to L -> queries."""
        found = [
            network(*last_items(own, lengths, longest))
            for network, own, longest in zip(
                self.networks, items.split(self.widths, dim=2), self.max_lengths, strict=True
            )
        ]
        if self.constant:
            found.append(torch.ones_like(found[0][:, :1]))
        return torch.cat(found, dim=1)


def last_items(items: Tensor, lengths: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
    """The last `max_length` items of each history moved to its front [B, L, D], and how many they are [B]."""
    left_out = (lengths - max_length).clamp(min=0)
    places = torch.arange(items.shape[1], device=items.device) + left_out[:, None]
    places = places.clamp(max=items.shape[1] - 1)
    moved = items.gather(1, places[:, :, None].expand(-1, -1, items.shape[2]))
    return moved, lengths - left_out


def side_by_side(
    parts: Sequence[PaddedModel],
    weights: Sequence[FloatArray],
    offset: FloatArray,
    left_out: Sequence[Mapping[str, Any]],
) -> PaddedModel:
    """The weighted sum of the parts, of the same items, as one model; `weights` [N] of each part, `offset` [N]."""
    keys = [
        part.keys * torch.from_numpy(own).to(part.keys).unsqueeze(1) for part, own in zip(parts, weights, strict=True)
    ]
    if constant := bool(offset.any()):
        keys.append(torch.from_numpy(offset).to(keys[0]).unsqueeze(1))
    return PaddedModel(
        SideBySide(parts, constant).eval(),
        torch.cat([part.inputs for part in parts], dim=1),
        torch.cat(keys, dim=1),
        max(part.max_length for part in parts),
        left_out,
    )
