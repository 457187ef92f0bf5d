"""Our UniSRec, EASE and item-kNN beside RecTools 0.19's: quality on test, seconds of a fit, the best 10 for all users.

    python bench/beside_rectools.py DATA [--features feat1CLS --epochs 300 --rectools-epochs 3] \\
        [--processor-time] [--output bench/results/rectools.json]

DATA is a prepared folder with item vectors. RecTools' UniSRec (`rectools.fast_transformers`) is 300 wide with 2 blocks, 50
items and softmax, otherwise as it comes (one head, dropout 0.1, learning rate 0.0001, 128 users a step); ours as it comes
(300 wide, 2 layers, 2 heads, 50 items, softmax, 2,048 targets a step) until valid stops to rise. EASE with the regularisation
400 and item-kNN with 100 neighbours, each as RecTools has it (no decay, no shrinkage), with our fixed defaults, and EASE as
ours comes, with settings chosen on valid. RecTools is installed into an environment of its own (bench/.envs/rectools,
`rectools_environment.py`), so that nothing of it is in this project's requirements; both sides have the same training
sequences, test histories, vectors and number of threads (OMP_NUM_THREADS). On a machine that is not idle,
`--processor-time` with one thread measures processor time on both sides.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rectools_environment import rectools_python

import linguarec
from linguarec.data.splits import EvaluationCases, evaluation_cases, training_sequences

HERE = Path(__file__).parent
K = 10
OURS = {  # name -> model, flags, the system of RecTools that it stands beside
    "unisrec": ("unisrec", [], "unisrec"),
    "ease": ("ease", ["--defaults", "fixed"], "ease"),
    "ease, settings chosen on valid": ("ease", [], "ease"),
    "ease, no decay": ("ease", ["--model.decay", "1", "--defaults", "fixed"], "ease"),
    "itemknn": ("itemknn", ["--defaults", "fixed"], "itemknn"),
    "itemknn, no decay, no shrinkage": (
        "itemknn",
        ["--model.decay", "1", "--model.shrinkage", "0", "--defaults", "fixed"],
        "itemknn",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--features", default="feat1CLS")
    parser.add_argument("--epochs", type=int, default=300, help="most epochs of our UniSRec")
    parser.add_argument("--rectools-epochs", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "rectools.json")
    arguments = parser.parse_args()

    arguments.clock = "process_time" if arguments.processor_time else "perf_counter"
    dataset = linguarec.load_dataset(arguments.data)
    roles = dataset.roles()
    cases = evaluation_cases(dataset.sequences, roles, "test")
    sequences = training_sequences(dataset.sequences, roles)
    with tempfile.TemporaryDirectory() as folder:
        results = {f"ours: {name}": ours(name, arguments, cases, Path(folder)) for name in OURS}
        given, found = Path(folder) / "sequences.npz", Path(folder) / "best.npz"
        np.savez(
            given,
            items=sequences.values,
            offsets=sequences.offsets,
            histories=cases.histories.values,
            history_offsets=cases.histories.offsets,
            users=cases.users,
            vectors=dataset.features(arguments.features),
        )
        script, epochs = HERE / "rectools_models.py", str(arguments.rectools_epochs)
        command = [rectools_python(), script, given, epochs, found, arguments.clock]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        theirs: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        with np.load(found) as best:
            for name, result in theirs.items():
                results[f"RecTools: {name}"] = result | quality(best[name], cases)

    beside = {f"ours: {name}": f"RecTools: {other}" for name, (_, _, other) in OURS.items()}
    print(
        "| system | recall@10 / ndcg@10, kept | excluded | epoch or fit | x | best 10 for all users | x | peak memory |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for result in results.values():
        result["fit"] = statistics.median(result["seconds"][1:] or result["seconds"])
        result["epochs"] = len(result["seconds"])
    for name, result in results.items():
        ratios = ["", ""]
        if name in beside:
            other = results[beside[name]]
            for place, key in enumerate(("fit", "recommend_seconds")):
                result[f"{key} of RecTools over ours"] = other[key] / result[key]
                ratios[place] = f"{other[key] / result[key]:.1f}"
        kept, excluded = (
            f"{result[part]['recall@10']:.4f} / {result[part]['ndcg@10']:.4f}" for part in ("kept", "excluded")
        )
        print(
            f"| {name} | {kept} | {excluded} | {result['fit']:.2f} s | {ratios[0]} | {result['recommend_seconds']:.2f} s "
            f"| {ratios[1]} | {result['peak_memory_gib']:.2f} GiB |"
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def ours(name: str, arguments: argparse.Namespace, cases: EvaluationCases, folder: Path) -> dict[str, Any]:
    """One of our models, trained in a process of its own and asked here."""
    model, flags, _ = OURS[name]
    run = folder / f"run-{len(list(folder.glob('run-*')))}"
    # The seconds of metrics.csv, by the chosen clock.
    code = f"import time; time.perf_counter = time.{arguments.clock}; from linguarec.cli import main; main()"
    command = [sys.executable, "-c", code, "finetune", model, str(arguments.data), "-o", str(run), *flags]
    if model == "unisrec":
        command += ["--features", arguments.features, "--training.max_epochs", str(arguments.epochs)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((run / "metrics.json").read_text())
    loaded = linguarec.load_model(run)
    clock = getattr(time, arguments.clock)
    started = clock()
    loaded.best_entries(cases.histories, K)  # as `linguarec recommend --for` asks, without writing them
    return {
        "seconds": [float(row["seconds"]) for row in rows],
        "recommend_seconds": clock() - started,
        "peak_memory_gib": max(float(row["peak_memory_gib"]) for row in rows),
        "kept": {metric: metrics["test"][metric] for metric in ("recall@10", "ndcg@10")},
        "excluded": {metric: metrics["test_excluded"][metric] for metric in ("recall@10", "ndcg@10")},
    }


def quality(best: Any, cases: EvaluationCases) -> dict[str, dict[str, float]]:
    """Metrics of the best items [Q, C] of each history, with its items and without them (the target always counts)."""
    ranks: dict[str, list[float]] = {"kept": [], "excluded": []}
    for row, target in enumerate(cases.targets):
        of_target = np.flatnonzero(best[row] == target)
        place = int(of_target[0]) if len(of_target) else best.shape[1] + K
        hidden = np.isin(best[row, :place], cases.histories[row]).sum()
        ranks["kept"].append(place)
        ranks["excluded"].append(place - hidden)
    found = {}
    for protocol, of in ranks.items():
        rank = np.array(of)
        hit = rank < K
        found[protocol] = {"recall@10": float(hit.mean()), "ndcg@10": float((hit / np.log2(rank + 2)).mean())}
    return found


if __name__ == "__main__":
    main()
