"""Rank of each target among the whole catalogue, without storing the scores.

The target's score is read from the same matrix product as all others: a dot product of its own differs in the last bits
and would break the ties between items with equal vectors. Scores are compared in float32 whatever precision the model
ran in.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.data.ragged import Ragged

# Scores in one chunk: on a CPU few enough to stay in its caches between the product and the comparisons, twice as fast
# as larger chunks; on a GPU enough to fill it.
_CPU_SCORES, _GPU_SCORES = 1 << 22, 1 << 27


@dataclass(frozen=True)
class TargetRanks:
    """For Q targets: how many candidates score higher, and how many score the same.

    `greater` [Q] int64. `ties` [Q] int64, the target itself included. A target's rank is one of `greater + 1` to
    `greater + ties`, each as likely.
    """

    greater: npt.NDArray[np.int64]
    ties: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.greater.shape != self.ties.shape:
            raise ValueError(f"{self.greater.shape} counts of higher scores, {self.ties.shape} of equal ones")
        if len(self.ties) and (self.ties.min() < 1 or self.greater.min() < 0):
            raise ValueError("a target ties at least with itself, and no count is negative")

    def __len__(self) -> int:
        return len(self.greater)

    def __getitem__(self, index: npt.NDArray[np.generic]) -> "TargetRanks":
        return TargetRanks(self.greater[index], self.ties[index])

    @property
    def expected(self) -> npt.NDArray[np.float64]:
        """Mean rank over the ties, from 1, [Q]."""
        return self.greater + (self.ties + 1) / 2


def target_ranks(
    queries: Tensor,
    keys: Tensor,
    targets: Tensor,
    exclude: Ragged | None = None,
    within: Tensor | None = None,
) -> TargetRanks:
    """Rank the target of each query among the candidates by `query . key`.

    Queries are worked through in chunks of one size, that depends on the catalogue alone; the last one is filled up. So
    the ranks of a query do not depend on the queries it came with.

    Args:
        queries: [Q, D].
        keys: [N, D] of the whole catalogue.
        targets: [Q] int64 rows of `keys`.
        exclude: Q lists of rows that are no candidates (a target always stays one), or None.
        within: [K] distinct int64 rows that are the candidates, or None for all.

    Raises:
        ValueError: shapes do not fit, a target is not a candidate, or a query or key is not finite.
    """
    if len(queries) != len(targets) or (exclude is not None and len(exclude) != len(targets)):
        raise ValueError(
            f"{len(queries)} queries, {len(targets)} targets and as many lists to exclude must be equally many"
        )
    if not bool(torch.isfinite(queries.float().sum() + keys.float().sum())):  # one pass, where isfinite().all() is two
        raise ValueError("queries or keys hold values that are not finite: the model has diverged")
    targets = targets.to(keys.device)
    keys, column_of = _candidates(keys, within)
    target_columns = targets if column_of is None else column_of[targets]
    if bool((target_columns < 0).any()):
        raise ValueError(f"{int((target_columns < 0).sum())} targets are not among the candidates in `within`")

    rows = chunk_rows(len(keys), keys.device)
    greater = torch.empty(len(queries), dtype=torch.int64, device=keys.device)
    ties = torch.empty_like(greater)
    with full_precision(keys.device):
        transposed = keys.float().T
        chunk = torch.zeros(rows, keys.shape[1], device=keys.device)
        scores = torch.empty(rows, len(keys), device=keys.device)
        for start in range(0, len(queries), rows):
            stop = min(start + rows, len(queries))
            chunk[: stop - start] = queries[start:stop]
            torch.mm(chunk, transposed, out=scores)
            part = scores[: stop - start]
            target = target_columns[start:stop].unsqueeze(1)
            target_scores = part.gather(1, target)
            if exclude is not None:
                _exclude(part, exclude, start, stop, column_of)
                part.scatter_(1, target, target_scores)
            above = torch.count_nonzero(part > target_scores, dim=1)
            greater[start:stop] = above
            ties[start:stop] = torch.count_nonzero(part >= target_scores, dim=1) - above
    return TargetRanks(greater.cpu().numpy(), ties.cpu().numpy())


def chunk_rows(num_keys: int, device: torch.device) -> int:
    """Queries scored at once: a power of two from 64 to 512 (CPU) or 4,096 (GPU), by the size of the catalogue."""
    scores, most = (_CPU_SCORES, 512) if device.type == "cpu" else (_GPU_SCORES, 4096)
    fitting = max(1, scores // max(1, num_keys))
    return max(64, min(most, 1 << (fitting.bit_length() - 1)))


def best_columns(scores: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """(column, score) of the best `k` of each row, best first, equal ones by column; excluded ones (-inf) left out."""
    k = min(k, scores.shape[1])
    if k == 0:
        return [[] for _ in range(len(scores))]
    values, columns = scores.topk(k, dim=1)
    columns, by_column = columns.sort(dim=1)
    values, by_value = values.gather(1, by_column).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, by_value)
    # Which of several items with the last score are among the best k, topk does not say: items with the same text tie.
    cut = ((scores >= values[:, -1:]).sum(dim=1) > k).nonzero().squeeze(1)
    columns[cut] = scores[cut].sort(dim=1, descending=True, stable=True).indices[:, :k]
    found = zip(columns.tolist(), values.tolist(), strict=True)
    return [[(c, v) for c, v in zip(row, best, strict=True) if v != float("-inf")] for row, best in found]


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradient, no autocast, and float32 products without TF32 or bf16 inside (which training may have allowed)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _candidates(keys: Tensor, within: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Keys of the candidates; and the column of each catalogue row among them (-1 = none), or None if it is the row."""
    if within is None:
        return keys, None
    within = within.to(keys.device)
    column_of = torch.full((len(keys),), -1, dtype=torch.int64, device=keys.device)
    column_of[within] = torch.arange(len(within), device=keys.device)
    return keys[within], column_of


def _exclude(scores: Tensor, exclude: Ragged, start: int, stop: int, column_of: Tensor | None) -> None:
    """Put the excluded items of the queries `start:stop` below all others."""
    first, last = exclude.offsets[start], exclude.offsets[stop]
    lengths = torch.from_numpy(np.diff(exclude.offsets[start : stop + 1])).to(scores.device)
    rows = torch.repeat_interleave(torch.arange(stop - start, device=scores.device), lengths)
    columns = torch.from_numpy(exclude.values[first:last].astype(np.int64)).to(scores.device)
    if column_of is not None:
        columns = column_of[columns]
        rows, columns = rows[columns >= 0], columns[columns >= 0]
    scores[rows, columns] = -torch.inf
