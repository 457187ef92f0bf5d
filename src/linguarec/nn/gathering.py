"""Rows of all processes in one tensor, with gradients: in-batch negatives across devices."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Gathering:
    """How many rows each process holds, in the order of the processes, and which process this is. Alone: nothing is sent."""

    counts: tuple[int, ...]
    rank: int

    @classmethod
    def of(cls, rows: Tensor) -> "Gathering":
        """Ask all processes for the number of their rows [P, ...]; every process must call it."""
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return cls((len(rows),), 0)
        counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=rows.device)
        counts[distributed.get_rank()] = len(rows)
        distributed.all_reduce(counts)
        return cls(tuple(counts.tolist()), distributed.get_rank())

    @property
    def start(self) -> int:
        """Where this process's rows begin in the whole."""
        return sum(self.counts[: self.rank])

    @property
    def share(self) -> float:
        """This process's share of all rows, times the number of processes; 1 alone."""
        return self.counts[self.rank] * len(self.counts) / max(sum(self.counts), 1) if len(self.counts) > 1 else 1.0

    def whole(self, rows: Tensor) -> Tensor:
        """The rows [P, ...] of all processes one after the other.

        The gradient of a row is the sum of what all processes ask of it. Averaged over processes, as DDP does, a loss that is
        averaged over processes then has the gradient that one process would compute on all rows.
        """
        if len(self.counts) == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return gathered


class _Gather(torch.autograd.Function):
    """All rows forward; back, the sum over processes of the gradients of this process's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gathering: Gathering) -> Tensor:
        ctx.gathering = gathering
        # Processes hold different numbers of rows, and collectives want equal ones.
        padded = rows.new_zeros((max(gathering.counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in gathering.counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, gathering.counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gathering = ctx.gathering
        total = gradients[0].contiguous()
        distributed.all_reduce(total)
        return total[gathering.start : gathering.start + gathering.counts[gathering.rank]], None
