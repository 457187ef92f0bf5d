"""Does learning the permutation of VQ-Rec's codebooks pay? Four ways from one pre-trained model to one folder, several seeds.

python bench/permutation.py FOLDER DATA --codes NAME --seeds 3 -o bench/results/permutation.json

learned    --mode permutation: straight-through, a true permutation
none       --mode direct: pre-trained embeddings as they are numbered
random     a random permutation of each book, then --mode direct
released   what the released code freezes after a first stage without gradient: each code takes the embedding that random
           logits and Gumbel noise favour, so that about a third of the embeddings are lost and others stand for several codes

At the end: how many codes of the data's items any permutation can put right, by coding them with both books. Fitted to that
count itself, on the right pairs of codings and, for chance, on pairs with the items shuffled.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.families.opening import open_start
from linguarec.families.vqrec.code_permutation import reorder
from linguarec.families.vqrec.permutation import PermutationSettings
from linguarec.families.weights import save_model
from linguarec.sources.codes import CodeSource
from linguarec.training.settings import TrainingSettings

WAYS = ("learned", "none", "random", "released")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path, help="pre-trained VQ-Rec")
    parser.add_argument("data", type=Path, help="prepared folder with codes of its own")
    parser.add_argument("--codes")
    parser.add_argument("--frozen", choices=["encoder", "none"], default="encoder")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--max-epochs", type=int, default=300)
    parser.add_argument("--permutation-epochs", type=int, default=5)
    parser.add_argument("--permutation-learning-rate", type=float, default=PermutationSettings.learning_rate)
    parser.add_argument("-o", "--output", type=Path, help="rows that it holds already are kept, and not trained again")
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    if arguments.output is not None and arguments.output.exists():
        rows = json.loads(arguments.output.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(arguments.seeds):
            for way in arguments.ways:
                done = rows.setdefault(way, [])
                if any(row["seed"] == seed for row in done):
                    continue
                done.append({"seed": seed} | train(way, seed, arguments, Path(scratch) / f"{way}-{seed}"))
                if arguments.output is not None:  # after each run: they take long
                    arguments.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"{'way':10} valid ndcg@10 (before stage 2)   valid ndcg@10   test recall@10   test ndcg@10   epochs")
    for way, found in rows.items():
        middle = {key: statistics.median(row[key] for row in found) for key in found[0]}
        print(
            f"{way:10} {middle['valid ndcg@10 before']:30.4f} {middle['valid ndcg@10']:15.4f} "
            f"{middle['test recall@10']:16.4f} {middle['test ndcg@10']:14.4f} {middle['epochs']:8.0f}"
        )
    right, chance = best_permutation(arguments)
    print(
        f"the best permutation of each book puts {right:.1%} of the codes right; with the items shuffled {chance:.1%}"
    )


def train(way: str, seed: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One run; its result as one row."""
    start = arguments.start
    if way in ("random", "released"):
        start = folder / "start"
        remap(arguments.start, start, way, seed)
    training = TrainingSettings(learning_rate=arguments.learning_rate, max_epochs=arguments.max_epochs)
    stage = PermutationSettings(epochs=arguments.permutation_epochs, learning_rate=arguments.permutation_learning_rate)
    result = finetune(
        "vqrec",
        arguments.data,
        folder / "run",
        from_=start,
        mode="permutation" if way == "learned" else "direct",
        permutation=stage if way == "learned" else None,
        frozen=arguments.frozen,
        training=training,
        codes=arguments.codes,
        seed=seed,
    )
    before = result["stages"]["permutation"]["valid"]["ndcg@10"] if way == "learned" else float("nan")
    return {
        "valid ndcg@10 before": before,
        "valid ndcg@10": result["valid"]["ndcg@10"],
        "test recall@10": result["test"]["recall@10"],
        "test ndcg@10": result["test"]["ndcg@10"],
        "epochs": result["epochs"],
        "seconds": result["seconds"],
    }


def best_permutation(arguments: argparse.Namespace) -> tuple[float, float]:
    """Share of the codes that agree with those of the start's book after the best permutation of each book, and by chance."""
    dataset, start = PreparedDataset.open(arguments.data), open_start(arguments.start).source
    assert isinstance(start, CodeSource)
    own = CodeSource.choose(dataset, {"codes": arguments.codes}, start)
    reused = start.coded_alike(dataset, {})
    values = own.known_book().num_centroids
    generator = np.random.default_rng(0)
    shares: tuple[list[float], list[float]] = ([], [])
    for book in range(own.codes.shape[1]):
        for found, items in zip(shares, (np.arange(len(own)), generator.permutation(len(own))), strict=True):
            together = np.zeros((values, values))
            np.add.at(together, (own.codes[items, book], reused.codes[:, book]), 1)
            found.append(together[linear_sum_assignment(together, maximize=True)].sum() / len(own))
    return float(np.mean(shares[0])), float(np.mean(shares[1]))


def remap(source: Path, target: Path, way: str, seed: int) -> None:
    """Write the model of `source` with its code embeddings re-ordered at random into `target`."""
    start = open_start(source)
    network, description = start.network, start.description
    books, centroids = description.shape.needs_codes()
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(books, centroids, centroids, generator=generator)
    noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator)))
    order = logits[:, 0].argsort(dim=1) if way == "random" else (logits + noise).argmax(dim=2)
    weight = network.get_parameter("codes.weight")
    with torch.no_grad():
        weight.copy_(reorder(weight, order))
    save_model(network, description, target)
    start.source.save(target)


if __name__ == "__main__":
    main()
