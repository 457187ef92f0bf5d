"""Seconds of the softmax of one step of Recformer's fine-tuning, forward and backward: over all items and over a sample.

    python bench/sampled_softmax.py [--items 447000 --width 384 --histories 128] [--output bench/results/sampled-softmax.json]

What is timed is all that depends on the number of items: choosing the classes, fetching their fixed vectors, loss and
gradient of the queries. Vectors are random. Processor time of one thread, which other programs disturb less than the clock's.
"""

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from linguarec.batching.negatives import StepClasses
from linguarec.nn.losses import catalogue_cross_entropy

DRAWN = (0, 1024, 8192, 65536)  # 0 = all


def step(queries: Tensor, keys: Tensor, rows: Tensor, targets: Tensor, drawn: int, number: int) -> None:
    """As `HistoryTuning.step_loss` does it."""
    log_weights = None
    if drawn:
        chosen = StepClasses.draw(targets.numpy(), len(rows), drawn, seed=0, step=number)
        rows, log_weights = rows[torch.from_numpy(chosen.classes)], torch.from_numpy(chosen.log_weights)
        targets = torch.from_numpy(chosen.place(targets.numpy()))
    catalogue_cross_entropy(queries, keys[rows], targets, log_weights).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=447_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--histories", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "sampled-softmax.json")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    keys = torch.nn.functional.normalize(torch.randn(arguments.items, arguments.width), dim=-1) / 0.05
    queries = torch.nn.functional.normalize(torch.randn(arguments.histories, arguments.width), dim=-1).requires_grad_()
    rows = torch.arange(arguments.items)
    found = []
    for precision in ("fp32", "bf16"):
        for drawn in DRAWN:
            seconds = []
            for number in range(arguments.repeats + 1):  # the first one is not counted
                targets = torch.from_numpy(generator.integers(0, arguments.items, arguments.histories))
                started = time.process_time()
                with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
                    step(queries, keys, rows, targets, drawn, number)
                seconds.append(time.process_time() - started)
            found.append({"precision": precision, "drawn": drawn, "seconds": float(np.median(seconds[1:]))})
            print(f"{precision}  {drawn or 'all':>7}  {1000 * found[-1]['seconds']:10.1f} ms")
    settings = {name: getattr(arguments, name) for name in ("items", "width", "histories", "repeats")}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({**settings, "results": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
