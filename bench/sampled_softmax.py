"""Seconds of a training step over all items and over a sample of them.

    python bench/sampled_softmax.py [--items 447000 --width 384 --histories 128]
    python bench/sampled_softmax.py --part steps [--items 4385,100000,1000000]

The first part is the softmax of one step of Recformer's fine-tuning, forward and backward. What is timed is all that depends on
the number of items: choosing the classes, fetching their fixed vectors, loss and gradient of the queries.

The second part is whole steps of next-item models, by `FineTuning` and `SampledTuning`: reading the items, forward, backward,
and the optimiser. Each row runs in a process of its own, whose peak memory is taken; it holds the items' vectors, too.

Items, vectors and histories are random. Processor time of one thread, which other programs disturb less than the clock's.
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linguarec.batching.batches import ItemBatch
from linguarec.batching.loader import TrainingLoader
from linguarec.batching.negatives import IntArray, NegativeSampling, StepClasses
from linguarec.families import FAMILIES
from linguarec.memory import peak_memory_gib
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.losses import catalogue_cross_entropy
from linguarec.nn.shape import CatalogueShape
from linguarec.training.module import FineTuning, Stage
from linguarec.training.sampled import SampledTuning
from linguarec.training.settings import TrainingSettings

DRAWN = (0, 1024, 8192, 65536)  # 0 = all
MODELS = {"sasrec": ("item.weight",), "sasrec-text": ()}
KINDS = {"full": None, "sampled": NegativeSampling(1024, 0), "gbce": NegativeSampling(1024, 0, 0.75)}
FEATURES, WIDTH, TARGETS = 384, 64, 2_048


def softmax_of_histories(items: int, width: int, histories: int, repeats: int) -> list[dict[str, Any]]:
    """The first part: median seconds by precision and number of negatives."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    keys = torch.nn.functional.normalize(torch.randn(items, width), dim=-1) / 0.05
    queries = torch.nn.functional.normalize(torch.randn(histories, width), dim=-1).requires_grad_()
    rows = torch.arange(items)
    found = []
    for precision in ("fp32", "bf16"):
        for drawn in DRAWN:
            seconds = []
            for number in range(repeats + 1):  # the first one is not counted
                targets = torch.from_numpy(generator.integers(0, items, histories))
                started = time.process_time()
                with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
                    softmax(queries, keys, rows, targets, drawn, number)
                seconds.append(time.process_time() - started)
            found.append({"precision": precision, "drawn": drawn, "seconds": float(np.median(seconds[1:]))})
            print(f"{precision}  {drawn or 'all':>7}  {1000 * found[-1]['seconds']:10.1f} ms")
    return found


def softmax(queries: Tensor, keys: Tensor, rows: Tensor, targets: Tensor, drawn: int, number: int) -> None:
    """As `HistoryTuning.step_loss` does it."""
    log_weights = None
    if drawn:
        chosen = StepClasses.draw(targets.numpy(), len(rows), drawn, seed=0, step=number)
        rows, log_weights = rows[torch.from_numpy(chosen.classes)], torch.from_numpy(chosen.log_weights)
        targets = torch.from_numpy(chosen.place(targets.numpy()))
    catalogue_cross_entropy(queries, keys[rows], targets, log_weights).backward()


def steps(items: int, model: str, kind: str, repeats: int) -> dict[str, Any]:
    """A row of the second part."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    histories = (1 + repeats) * TARGETS // 8
    log = (items * generator.random(9 * histories) ** 3).astype(np.int32)  # some items are bought much more than others
    loader = TrainingLoader(log, np.arange(histories + 1) * 9, 50, TARGETS, None, 0)
    needs = model != "sasrec"
    vectors = torch.from_numpy(generator.standard_normal((items if needs else 0, FEATURES), dtype=np.float32))

    def read(rows: IntArray) -> ItemBatch:
        chosen = torch.from_numpy(rows)
        return ItemBatch(chosen, torch.zeros(len(rows), dtype=torch.int64), vectors[chosen] if needs else None)

    torch.manual_seed(0)
    family, encoder = FAMILIES[model], TransformerConfig(hidden_size=WIDTH, inner_size=WIDTH)
    network = family.build(family.config(), encoder, CatalogueShape(items, FEATURES if needs else None))
    sampling, settings, stage = KINDS[kind], TrainingSettings(), None
    if sampling is None:
        stage = FineTuning(network, read(np.arange(items)), loader, settings, 0)
    else:
        stage = SampledTuning(network, read, items, loader, settings, 0, sampling, MODELS[model])
    seconds = timed(stage)
    return {
        "items": items,
        "model": model,
        "kind": kind,
        "seconds": float(np.median(seconds[1:])),  # the first one makes the optimiser's state
        "peak_memory_gib": peak_memory_gib(),
    }


def timed(stage: Stage) -> list[float]:
    """Seconds of each step of an epoch."""
    optimizer, seconds = stage.configure_optimizers(), []
    for batch in stage.loader:
        started = time.process_time()
        optimizer.zero_grad()
        stage.step_loss(batch).backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("softmax", "steps", "row"), default="softmax")
    parser.add_argument("--items", help="447000; of the steps 4385,100000,1000000")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--histories", type=int, default=128)
    parser.add_argument("--model", choices=MODELS, help="of the steps; all if left out")
    parser.add_argument("--kind", choices=KINDS, help="of the steps; all if left out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a file in bench/results")
    arguments = parser.parse_args()

    if arguments.part == "row":  # in the process that `steps` started
        print(json.dumps(steps(int(arguments.items), arguments.model, arguments.kind, arguments.repeats)))
        return
    if arguments.part == "softmax":
        items = int(arguments.items or 447_000)
        found = softmax_of_histories(items, arguments.width, arguments.histories, arguments.repeats)
        settings = {"items": items, **{name: getattr(arguments, name) for name in ("width", "histories", "repeats")}}
    else:
        settings, found = {"width": WIDTH, "features": FEATURES, "targets": TARGETS, "repeats": arguments.repeats}, []
        for items in (arguments.items or "4385,100000,1000000").split(","):
            for model in [arguments.model] if arguments.model else MODELS:
                for kind in [arguments.kind] if arguments.kind else KINDS:
                    words = ["--part", "row", "--items", items, "--model", model, "--kind", kind]
                    repeats = 1 if kind == "full" and int(items) > 100_000 else arguments.repeats
                    command = [sys.executable, __file__, *words, "--repeats", str(repeats)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    found.append(json.loads(done.stdout))
                    row = found[-1]
                    print(
                        f"{int(items):>9,}  {model:<12} {kind:<8} {1000 * row['seconds']:10.0f} ms"
                        f"  {row['peak_memory_gib']:5.2f} GiB",
                        flush=True,
                    )
    name = "sampled-softmax" if arguments.part == "softmax" else "sampled-steps"
    output = arguments.output or Path(__file__).parent / "results" / f"{name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**settings, "results": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
