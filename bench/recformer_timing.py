"""One turn of `recformer.py`, the same loop for both systems; without linguarec, as each has an environment of its own."""

import contextlib
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def measure(
    model: nn.Module,
    encode: Callable[[Any], Tensor],
    batches: Sequence[Any],
    what: str,
    precision: str,
    repeats: int,
    cells: int,
    pooled: Path,
) -> None:
    """Time all batches again and again, and write the vectors that they are read as.

    Prints one JSON object: seconds of each repeat but the first, peak memory beyond that before the first batch, and `cells`.

    Args:
        model: what is timed.
        encode: a batch to the vectors of its sequences.
        batches: what is read in one repeat.
        what: forward or train (forward and backward).
        precision: fp32 or bf16.
        repeats: how many are timed, after one that is not.
        cells: tokens of the batches, padding included.
        pooled: file for the vectors, as read in evaluation.
    """
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    def forward() -> list[Tensor]:
        with torch.no_grad(), autocast:
            return [encode(batch) for batch in batches]

    def train() -> None:
        for batch in batches:
            with autocast:
                loss = encode(batch).float().square().mean()
            loss.backward()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.train(what == "train")
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        _ = train() if what == "train" else forward()
        seconds.append(time.perf_counter() - started)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    model.eval()
    np.save(pooled, torch.cat([each.float() for each in forward()]).numpy())
    print(json.dumps({"seconds": seconds[1:], "peak_memory_gib": memory, "cells": cells}))
