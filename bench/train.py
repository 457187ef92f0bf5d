"""Seconds of a training epoch, of an evaluation, and to a valid ndcg@10: our models and RecTools' SASRec in one run.

    python bench/train.py DATA [--epochs 6] [--sasrec-epochs 20] [--rectools-epochs 8] [--output bench/results/train.json]

DATA is a prepared folder with item vectors and codes. Both sides train the same sequences with hidden size 300, 2 layers,
2 heads, 50 items, full softmax. RecTools 0.19 is installed into an environment of its own (bench/.envs/rectools); it takes
whole users, so it runs twice: with its usual 128 a step, and with 512, which is about our 2,048 targets. It ranks the top 10
for all users; ours computes the target's rank among the whole catalogue for all users. Medians over the epochs but the first.
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
from rectools_environment import rectools_python

HERE = Path(__file__).parent
MODELS = ("sasrec", "sasrec-text", "unisrec", "unisrec-transductive", "vqrec")
GOALS = (0.050, 0.055, 0.058, 0.060)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--features", default=None)
    parser.add_argument("--codes", default=None)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--sasrec-epochs", type=int, default=20)
    parser.add_argument("--sasrec-config", type=Path, default=None, help="settings of our SASRec, as YAML")
    parser.add_argument("--rectools-epochs", type=int, default=8, help="with 128 users a step; 0 = leave RecTools out")
    parser.add_argument("--rectools-large-epochs", type=int, default=3, help="with 512 users a step")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "train.json")
    arguments = parser.parse_args()

    results = {model: ours(model, arguments) for model in MODELS}
    for users, epochs in ((128, arguments.rectools_epochs), (512, arguments.rectools_large_epochs)):
        if arguments.rectools_epochs and epochs:
            results[f"RecTools sasrec, {users} users a step"] = rectools(arguments.data, epochs, users)
    own = results["sasrec"]
    print("| system | epoch | / our sasrec | evaluation | / our sasrec | peak memory |")
    print("|---|---|---|---|---|---|")
    for name, result in results.items():
        for what in ("epoch", "evaluation"):
            values = result[f"{what}_seconds"]
            result[what] = statistics.median(values[1:] or values)
            result[f"{what} over our sasrec"] = result[what] / own[what]
        print(
            f"| {name} | {result['epoch']:.2f} s | {result['epoch over our sasrec']:.2f} | {result['evaluation']:.2f} s "
            f"| {result['evaluation over our sasrec']:.2f} | {result['peak_memory_gib']:.2f} GiB |"
        )
    print(
        "\n| seconds of training to a valid ndcg@10 of | " + " | ".join(f"{goal:.3f}" for goal in GOALS) + " | best |"
    )
    print("|---|" + "---|" * (len(GOALS) + 1))
    for name, result in results.items():
        result["seconds_to"] = {goal: seconds_to(goal, result) for goal in GOALS}
        cells = ["-" if seconds is None else f"{seconds:.0f}" for seconds in result["seconds_to"].values()]
        best = max(result["valid_ndcg"])
        print(f"| {name} | {' | '.join(cells)} | {best:.4f} in {len(result['valid_ndcg'])} epochs |")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def seconds_to(goal: float, result: dict[str, Any]) -> float | None:
    """Seconds of training, validation left out, until the valid ndcg@10 reached `goal`; None = it did not."""
    spent = np.cumsum(result["epoch_seconds"])
    reached = np.flatnonzero(np.array(result["valid_ndcg"]) >= goal)
    return float(spent[reached[0]]) if len(reached) else None


def ours(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Each model in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "linguarec.cli", "finetune", model, str(arguments.data), "-o", str(run)]
        if model == "sasrec":
            if arguments.sasrec_config:
                command += ["--config", str(arguments.sasrec_config)]
            command += ["--training.max_epochs", str(arguments.sasrec_epochs)]
        else:
            command += ["--training.max_epochs", str(arguments.epochs)]
            for flag in ("features", "codes"):
                if getattr(arguments, flag):
                    command += [f"--{flag}", getattr(arguments, flag)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
    return {
        "epoch_seconds": [float(row["seconds"]) for row in rows],
        "evaluation_seconds": [float(row["valid_seconds"]) for row in rows],
        "valid_ndcg": [float(row["valid ndcg@10"]) for row in rows],
        "peak_memory_gib": max(float(row["peak_memory_gib"]) for row in rows),
    }


def rectools(data: Path, epochs: int, users_a_step: int) -> dict[str, Any]:
    """RecTools on the same training sequences and valid targets, in its own environment."""
    import linguarec
    from linguarec.data.splits import evaluation_cases, training_sequences

    dataset = linguarec.load_dataset(data)
    sequences = training_sequences(dataset.sequences, dataset.roles())
    valid = evaluation_cases(dataset.sequences, dataset.roles(), "valid", 50)
    targets = np.full(len(sequences), -1)
    targets[valid.users] = valid.targets
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sequences.npz"
        np.savez(file, items=sequences.values, offsets=sequences.offsets, targets=targets)
        command = [rectools_python(), HERE / "rectools_sasrec.py", file, str(epochs), str(users_a_step)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
