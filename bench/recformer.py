"""Recformer's encoder beside transformers' Longformer in the released arrangement: same weights, same inputs, one run.

    python bench/recformer.py [DATA] [--precision fp32 bf16] [--repeats 5] [--threads 2]
                              [--output bench/results/recformer.json]

6 layers x 384 with a window of 64, random weights. Two inputs: 8 sequences of 512 tokens, and 2 batches of 16 histories
drawn from the prepared folder DATA (which needs `linguarec tokenize DATA`), as they come. `forward` is evaluation, `train`
forward and backward with dropout 0.1; both end at the vectors of <s>. transformers 4.46 is installed into an environment of its
own (bench/.envs/longformer). The systems take turns, each time in a process of its own. Peak memory is what a process
took beyond its size before the first batch. The pooled vectors of both must agree.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recformer_timing import measure
from safetensors.torch import save_file

from linguarec.batching.batches import TokenBatch
from linguarec.batching.tokens import history_tokens
from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import evaluation_cases
from linguarec.families.recformer.model import Recformer, RecformerConfig
from linguarec.families.recformer.released_tensors import to_released_recformer
from linguarec.sources.tokens import TokenSource

HERE = Path(__file__).parent
ENVIRONMENT = HERE / ".envs" / "longformer"
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}
CONFIG = RecformerConfig(
    vocabulary=30522, hidden_size=384, layers=6, heads=12, inner_size=1536, positions=1026, first_position=0
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each system")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "recformer.json")
    parser.add_argument("--worker", nargs=3, metavar=("FOLDER", "WHAT", "PRECISION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker, arguments.repeats, arguments.threads)
        return
    python = environment()
    rows = []
    print("| input | what | precision | Longformer | ours | ratio | memory, Longformer | ours | ratio | difference |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    inputs = {"8 x 512": fixed()} | ({"histories": histories(arguments.data)} if arguments.data else {})
    for name, (tokens, bounds) in inputs.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write(folder, tokens, bounds)
            for precision in arguments.precision:
                for what in ("forward", "train"):
                    row = {"input": name, **compare(python, folder, what, precision, arguments)}
                    rows.append(row)
                    print(
                        f"| {name} | {what} | {precision} | {row['baseline_seconds']:.3f} s | {row['seconds']:.3f} s "
                        f"| {row['ratio']:.2f} ({row['ratio_lowest']:.2f}-{row['ratio_highest']:.2f}) "
                        f"| {row['baseline_memory_gib']:.2f} GiB | {row['memory_gib']:.2f} GiB "
                        f"| {row['memory_ratio']:.2f} | {row['difference']:.1e} |",
                        flush=True,
                    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


def environment() -> Path:
    """The Python with transformers 4.46, installed if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        packages = [f"torch=={torch.__version__.split('+')[0]}", "transformers==4.46.3", "numpy", "safetensors"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return python


def fixed() -> tuple[TokenBatch, list[int]]:
    """8 sequences of 512 tokens, as one batch."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.full((8,), 512)
    ids = torch.randint(0, 30000, (int(lengths.sum()),), generator=generator)
    types = torch.randint(1, 3, ids.shape, generator=generator)
    items = torch.randint(1, 50, ids.shape, generator=generator).sort().values
    return TokenBatch(ids, types, items, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])), [0, 8]


def histories(data: Path) -> tuple[TokenBatch, list[int]]:
    """32 histories of the test part, drawn at random, as 2 batches."""
    dataset = PreparedDataset.open(data)
    stored = TokenSource.choose(dataset, {})
    cases = evaluation_cases(dataset.sequences, dataset.roles("leave-one-out"), "test", CONFIG.max_items)
    drawn = np.random.default_rng(0).permutation(len(cases))[:32]
    tokens = history_tokens(stored.tokens, cases.select(drawn).histories, CONFIG.max_items, CONFIG.max_tokens)
    return tokens, [0, 16, 32]


def write(folder: Path, tokens: TokenBatch, bounds: list[int]) -> None:
    """What both systems read: weights under released and under our names, inputs, sizes."""
    torch.manual_seed(0)
    model = Recformer(CONFIG)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "ours.safetensors")
    save_file(to_released_recformer(model.state_dict()), folder / "weights.safetensors")
    (folder / "sizes.json").write_text(json.dumps(asdict(CONFIG)))
    arrays = {name: getattr(tokens, name).numpy() for name in ("ids", "types", "item_positions", "offsets")}
    np.savez(folder / "inputs.npz", **arrays, batches=np.array(bounds))


def compare(python: Path, folder: Path, what: str, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of all repeats of all turns; the lowest and highest ratio of a turn's medians."""
    rest = [what, precision]
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for _ in range(arguments.rounds):
        options = ["--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
        ours.append(run([sys.executable, __file__, *options, "--worker", str(folder), *rest]))
        script = str(HERE / "longformer_recformer.py")
        counts = [str(arguments.repeats), str(arguments.threads)]
        theirs.append(run([str(python), script, str(folder), *rest, *counts]))
    difference = float(np.abs(np.load(folder / "ours.npy") - np.load(folder / "baseline.npy")).max())
    assert difference < TOLERANCE[precision], f"the pooled vectors differ by {difference}"
    seconds, baseline = ([second for turn in turns for second in turn["seconds"]] for turns in (ours, theirs))
    ratios = [
        statistics.median(their["seconds"]) / statistics.median(our["seconds"])
        for our, their in zip(ours, theirs, strict=True)
    ]
    memory, baseline_memory = (min(turn["peak_memory_gib"] for turn in turns) for turns in (ours, theirs))
    return {
        "what": what,
        "precision": precision,
        "tokens": ours[0]["cells"],
        "baseline_cells": theirs[0]["cells"],
        "seconds": statistics.median(seconds),
        "baseline_seconds": statistics.median(baseline),
        "ratio": statistics.median(baseline) / statistics.median(seconds),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "memory_gib": memory,
        "baseline_memory_gib": baseline_memory,
        "memory_ratio": memory / baseline_memory,
        "difference": difference,
    }


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def work(folder: str, what: str, precision: str, repeats: int, threads: int) -> None:
    """Our side of one turn; prints what the baseline's script prints."""
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    model = Recformer(CONFIG)
    model.load_state_dict(load_file(Path(folder) / "ours.safetensors"))
    with np.load(Path(folder) / "inputs.npz") as stored:
        parts = [torch.from_numpy(stored[name]) for name in ("ids", "types", "item_positions", "offsets")]
        bounds = stored["batches"].tolist()
    *flat, offsets = parts
    batches = []
    for first, end in itertools.pairwise(bounds):
        tokens = slice(int(offsets[first]), int(offsets[end]))
        batches.append(TokenBatch(*(values[tokens] for values in flat), offsets[first : end + 1] - offsets[first]))
    measure(model, model.encode, batches, what, precision, repeats, int(offsets[-1]), Path(folder) / "ours.npy")


if __name__ == "__main__":
    main()
