"""Which valid metric should stop a training: with the items of the history kept, excluded, or with the learned repeat term?

python bench/stop_by.py DATA --seeds 3 -o bench/results/stop-by.json          a prepared folder
python bench/stop_by.py synthetic --seeds 3 -o bench/results/stop-by.json     the shop with a known repeat law, a new one a seed

Each seed is one training. After every epoch the valid and the test targets are ranked under the three protocols, so one
training says which epoch each rule would have kept, and what that epoch's weights reach on test.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from linguarec.commands.finetune import finetune
from linguarec.commands.prepare import prepare_table
from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import evaluation_cases
from linguarec.data.synthetic import DAY, DEMO, LAUNCH
from linguarec.data.synthetic_repeats import generate_repeat_shop
from linguarec.evaluation.case_scores import Part
from linguarec.evaluation.stacking import fit_repeats
from linguarec.families import next_item
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.scorer import VectorScorer
from linguarec.training.settings import TrainingSettings

PROTOCOLS = ("kept", "excluded", "learned")
SHOP = replace(DEMO, new_items_per_taste=0, users=3_000, shortest=6, longest=24)
FITTED_ON = 3_000  # valid cases of the repeat term of an epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="prepared folder, or synthetic")
    parser.add_argument("--model", default="sasrec")
    parser.add_argument("--history-in-softmax", choices=["kept", "excluded"], default="kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-epochs", type=int, default=20)
    parser.add_argument("--patience", type=int, default=10, help="of the rules, which is tried on the recorded epochs")
    parser.add_argument("-o", "--output", type=Path, help="rows that it holds already are kept, and not trained again")
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    if arguments.output is not None and arguments.output.exists():
        rows = json.loads(arguments.output.read_text(encoding="utf-8"))
    name = f"{Path(arguments.data).name}, {arguments.model}, history in the softmax {arguments.history_in_softmax}"
    done = rows.setdefault(name, [])
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(arguments.seeds):
            if any(row["seed"] == seed for row in done):
                continue
            data = synthetic(seed, Path(scratch)) if arguments.data == "synthetic" else Path(arguments.data)
            epochs = trained(data, Path(scratch) / f"run{seed}", seed, arguments)
            done.append({"seed": seed, "epochs": epochs, "rules": by_rule(epochs, arguments.patience)})
            if arguments.output is not None:
                arguments.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(name)
    for rule in PROTOCOLS:
        found = [row["rules"][rule] for row in done]
        reached = "  ".join(
            f"{protocol} {statistics.mean(one['test'][protocol] for one in found):.4f}" for protocol in PROTOCOLS
        )
        print(f"  stop by {rule:9s} epochs {[one['epoch'] for one in found]}  test ndcg@10: {reached}")


def synthetic(seed: int, scratch: Path) -> Path:
    """The prepared folder of a shop with repeats."""
    shop = generate_repeat_shop(seed, SHOP)
    lengths = shop.sequences.lengths
    steps = np.arange(shop.sequences.offsets[-1]) - np.repeat(shop.sequences.offsets[:-1], lengths)
    replace(shop.shop, sequences=shop.sequences, timestamps=LAUNCH + steps * DAY).write(scratch / f"log{seed}")
    files = scratch / f"log{seed}"
    prepare_table(files / "interactions.csv", scratch / f"data{seed}", files / "items.csv", k_core=0)
    return scratch / f"data{seed}"


def trained(data: Path, run: Path, seed: int, arguments: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """ndcg@10 on valid and test after each epoch, under each protocol."""
    dataset = PreparedDataset.open(data)
    valid, test = (evaluation_cases(dataset.sequences, dataset.roles(), part) for part in ("valid", "test"))
    fitted = valid.select(np.sort(np.random.default_rng(0).permutation(len(valid))[:FITTED_ON]))
    epochs: list[dict[str, dict[str, float]]] = []
    original = next_item.NextItemData.validate

    def recorded(self: Any, model: nn.Module) -> dict[str, float]:
        with torch.autocast("cpu", enabled=False):
            scorer = VectorScorer(model)
            inputs, keys = scorer.encode(self.source)
            part = Part.of(scorer, inputs, DenseRanker(keys.float()))
            term = fit_repeats(part, fitted)
            ranked = {name: part.rank(cases, term) for name, cases in (("valid", valid), ("test", test))}
        epochs.append({name: {p: of[p].mean("ndcg@10") for p in PROTOCOLS} for name, of in ranked.items()})
        return original(self, model)

    next_item.NextItemData.validate = recorded  # type: ignore[method-assign]
    try:
        training = TrainingSettings(max_epochs=arguments.max_epochs, patience=arguments.max_epochs)
        finetune(
            arguments.model, data, run, training=training, seed=seed, history_in_softmax=arguments.history_in_softmax
        )
    finally:
        next_item.NextItemData.validate = original  # type: ignore[method-assign]
    return epochs


def by_rule(epochs: list[dict[str, dict[str, float]]], patience: int) -> dict[str, dict[str, Any]]:
    """The epoch that each rule keeps, and its test."""
    found = {}
    for rule in PROTOCOLS:
        best = 0
        for number, epoch in enumerate(epochs):
            if epoch["valid"][rule] > epochs[best]["valid"][rule]:
                best = number
            elif number - best >= patience:
                break
        found[rule] = {"epoch": best, "test": epochs[best]["test"]}
    return found


if __name__ == "__main__":
    main()
