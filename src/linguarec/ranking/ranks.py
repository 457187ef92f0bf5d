"""Ranks of targets, and what all exact rankers share: the size of a chunk, products in full float32."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

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

    @classmethod
    def joined(cls, parts: "Sequence[TargetRanks]") -> "TargetRanks":
        """Those of at least one group of targets after the other."""
        return cls(np.concatenate([part.greater for part in parts]), np.concatenate([part.ties for part in parts]))

    @property
    def expected(self) -> npt.NDArray[np.float64]:
        """Mean rank over the ties, from 1, [Q]."""
        return self.greater + (self.ties + 1) / 2


def counted(
    query: npt.NDArray[np.int64], scores: npt.NDArray[Any], threshold: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """[2, Q]: how many of the scores that are listed for a query are greater than its threshold, and how many equal it.

    Args:
        query: of each score, from 0.
        scores: listed scores.
        threshold: [Q].
    """
    of_query = threshold[query]
    compared = (scores > of_query, scores == of_query)
    return np.stack([np.bincount(query[found], minlength=len(threshold)) for found in compared])


def chunk_rows(num_keys: int, device: torch.device) -> int:
    """Queries scored at once: a power of two from 64 to 512 (CPU) or 4,096 (GPU), by the size of the catalogue."""
    scores, most = (_CPU_SCORES, 512) if device.type == "cpu" else (_GPU_SCORES, 4096)
    fitting = max(1, scores // max(1, num_keys))
    return max(64, min(most, 1 << (fitting.bit_length() - 1)))


class _Precision:
    """How many threads need full precision now, and the setting that the last of them puts back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.before = "highest"


_PRECISION = _Precision()


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradient, no autocast, and float32 products without TF32 or bf16 inside (which training may have allowed).

    The precision of products is a setting of the whole process: the first thread that enters sets it, the last one that
    leaves puts it back.
    """
    with _PRECISION.lock:
        if _PRECISION.users == 0:
            _PRECISION.before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
        _PRECISION.users += 1
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        with _PRECISION.lock:
            _PRECISION.users -= 1
            if _PRECISION.users == 0:
                torch.set_float32_matmul_precision(_PRECISION.before)
