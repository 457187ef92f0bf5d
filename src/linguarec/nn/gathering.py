"""All-gather with gradients: the rows of all processes in one tensor, for in-batch negatives across devices."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Gathering:
    """`counts`: rows of each process, by rank; `rank`: of this process. A single process sends nothing."""

    counts: tuple[int, ...]
    rank: int

    @classmethod
    def of(cls, rows: Tensor) -> "Gathering":
        """Exchange the numbers of rows [P, ...] between all processes; every process must call this."""
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return cls((len(rows),), 0)
        counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=rows.device)
        counts[distributed.get_rank()] = len(rows)
        distributed.all_reduce(counts)
        return cls(tuple(counts.tolist()), distributed.get_rank())

    @property
    def start(self) -> int:
        """Index of this process's first row among all rows."""
        return sum(self.counts[: self.rank])

    @property
    def share(self) -> float:
        """Fraction of all rows that this process holds, times the number of processes; 1 for a single process."""
        return self.counts[self.rank] * len(self.counts) / max(sum(self.counts), 1) if len(self.counts) > 1 else 1.0

    def whole(self, rows: Tensor) -> Tensor:
        """The rows [P, ...] of all processes, concatenated by rank.

        The gradient of a row is the sum of its gradients in all processes. If the loss is averaged over processes and DDP
        averages the gradients, they then equal those that a single process would compute on all rows.
        """
        if len(self.counts) == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return gathered


class _Gather(torch.autograd.Function):
    """Forward: all rows. Backward: the gradients of this process's rows, summed over processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gathering: Gathering) -> Tensor:
        ctx.gathering = gathering
        # Processes hold different numbers of rows, but collectives need equal shapes.
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
