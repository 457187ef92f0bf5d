"""Seconds of a training epoch and of an evaluation: every model of ours, and RecTools' SASRec, in one run.

    python bench/train.py DATA [--epochs 5] [--rectools-epochs 1] [--users 0] [--output bench/results/train.json]

DATA is a prepared folder with item vectors and codes. Both sides train the same sequences with hidden size 300, 2 layers,
2 heads, 50 items, full softmax. RecTools 0.19 is installed into an environment of its own (bench/.envs/rectools).
RecTools ranks the top 10 for all users; ours computes the target's rank among the whole catalogue for all users.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MODELS = ("sasrec", "sasrec-text", "unisrec", "unisrec-transductive", "vqrec")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--features", default=None)
    parser.add_argument("--codes", default=None)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rectools-epochs", type=int, default=1, help="0 = leave RecTools out")
    parser.add_argument("--users", type=int, default=0, help="RecTools trains the first so many users; 0 = all")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "train.json")
    arguments = parser.parse_args()

    results: dict[str, Any] = {model: ours(model, arguments) for model in MODELS}
    if arguments.rectools_epochs:
        results["RecTools sasrec"] = rectools(arguments)
    own = results["sasrec"]
    for result in results.values():
        result["epoch over our sasrec"] = result["epoch_seconds"] / own["epoch_seconds"]
        result["evaluation over our sasrec"] = result["evaluation_seconds"] / own["evaluation_seconds"]
    print("| system | epoch | / our sasrec | evaluation | / our sasrec | peak memory |")
    print("|---|---|---|---|---|---|")
    for name, r in results.items():
        print(
            f"| {name} | {r['epoch_seconds']:.2f} s | {r['epoch over our sasrec']:.2f} | {r['evaluation_seconds']:.2f} s "
            f"| {r['evaluation over our sasrec']:.2f} | {r['peak_memory_gib']:.2f} GiB |"
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def ours(model: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Medians over the epochs, the first (which compiles kernels) left out; each model in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "linguarec.cli", "finetune", model, str(arguments.data), "-o", str(run)]
        command += ["--training.max_epochs", str(arguments.epochs)]
        if model != "sasrec":
            for flag in ("features", "codes"):
                if getattr(arguments, flag):
                    command += [f"--{flag}", getattr(arguments, flag)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))[1:]
    return {
        "epoch_seconds": statistics.median(float(row["seconds"]) for row in rows),
        "evaluation_seconds": statistics.median(float(row["valid_seconds"]) for row in rows),
        "peak_memory_gib": max(float(row["peak_memory_gib"]) for row in rows),
    }


def rectools(arguments: argparse.Namespace) -> dict[str, float]:
    """RecTools' median epoch, in its own environment."""
    import linguarec
    from linguarec.data.splits import training_sequences

    environment = HERE / ".envs" / "rectools"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        for requirement in ("torch==2.13.0", "rectools[torch]==0.19.*"):
            subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
    dataset = linguarec.load_dataset(arguments.data)
    sequences = training_sequences(dataset.sequences, dataset.roles())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sequences.npz"
        np.savez(file, items=sequences.values, offsets=sequences.offsets)
        command = [python, HERE / "rectools_sasrec.py", file, str(arguments.rectools_epochs), str(arguments.users)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return {**result, "epoch_seconds": statistics.median(result["epoch_seconds"])}


if __name__ == "__main__":
    main()
