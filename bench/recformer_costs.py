"""What a Recformer costs by the longest input: encoding the catalogue, ranking for all users, an epoch of fine-tuning.

    python bench/recformer_costs.py RUN DATA [--tokens 128 256 512 1024] [--steps 12] [--histories 32] [--threads 2]
                                    [--output bench/results/recformer-costs.json]

RUN is a fine-tuned Recformer, DATA its prepared folder. The same weights read every length (the table of positions is repeated
where it is too short), so the metrics say what older items are worth to a model that was trained with RUN's own length. An
epoch is one history of every user; its time is the median of some steps times their number. Each length runs in a process of
its own; peak memory is the process's.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.pretraining import Mixing
from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import evaluation_cases
from linguarec.evaluation.evaluate import rank_cases
from linguarec.families.recformer.loaders import HistoryLoader, JoinedTokens
from linguarec.families.recformer.model import Recformer
from linguarec.families.recformer.scorer import SentenceScorer
from linguarec.ranking.dense import DenseRanker
from linguarec.recommender import Recommender
from linguarec.sources.tokens import TokenSource

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--histories", type=int, default=32, help="of a training step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "recformer-costs.json")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments, arguments.worker)))
        return
    print("| longest input | catalogue | evaluation | memory | epoch | memory | test recall@10 | ndcg@10 |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for tokens in arguments.tokens:
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", str(tokens)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"| {tokens} | {row['catalogue_seconds']:.1f} s | {row['evaluation_seconds']:.1f} s "
            f"| {row['evaluation_memory_gib']:.2f} GiB | {row['epoch_seconds']:.0f} s | {row['peak_memory_gib']:.2f} GiB "
            f"| {row['recall@10']:.4f} | {row['ndcg@10']:.4f} |",
            flush=True,
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


def measure(arguments: argparse.Namespace, longest: int) -> dict[str, Any]:
    """One length."""
    torch.set_num_threads(arguments.threads)
    recommender = Recommender.load(arguments.run)
    held = recommender.scorer
    assert isinstance(held, SentenceScorer)
    model, item_model = (with_longest(network, longest) for network in (held.network, held.item_network))
    scorer = SentenceScorer(model, item_model)
    dataset = PreparedDataset.open(arguments.data)
    source = TokenSource.choose(dataset, {})
    cases = evaluation_cases(dataset.sequences, dataset.roles("leave-one-out"), "test", model.config.max_items)
    with torch.autocast("cpu", torch.bfloat16):
        started = time.perf_counter()
        inputs, keys = scorer.encode(source)
        encoded = time.perf_counter()
        means = rank_cases(scorer, inputs, DenseRanker(keys), cases).means()
        ranked = time.perf_counter()
    evaluation_memory = peak_memory()
    logs = TrainingLogs([TrainingLog.of(dataset, "leave-one-out")])
    tokens = JoinedTokens([source.tokens])
    loader = HistoryLoader(logs, tokens, model.config.max_items, longest, arguments.histories, Mixing(), False, seed=0)
    seconds = []
    model.train()
    for number, batch in enumerate(loader):
        if number > arguments.steps:
            break
        step = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            model.finetune_loss(batch.sequences, keys).backward()
        seconds.append(time.perf_counter() - step)
    return {
        "tokens": longest,
        "catalogue_seconds": encoded - started,
        "evaluation_seconds": ranked - encoded,
        "evaluation_memory_gib": evaluation_memory,
        "epoch_seconds": statistics.median(seconds[1:]) * len(loader),
        "peak_memory_gib": peak_memory(),
        "recall@10": means["recall@10"],
        "ndcg@10": means["ndcg@10"],
    }


def with_longest(model: nn.Module, longest: int) -> Recformer:
    """The same weights for inputs of so many tokens."""
    assert isinstance(model, Recformer)
    positions = model.config.first_position + longest
    config = replace(model.config, max_tokens=longest, positions=max(positions, model.config.positions))
    other = Recformer(config)
    weights = model.state_dict()
    rows = torch.arange(config.positions - config.first_position) % (model.config.positions - config.first_position)
    taken = torch.cat([torch.arange(config.first_position), rows + config.first_position])
    weights["position.weight"] = weights["position.weight"][taken]
    other.load_state_dict(weights)
    return other


def peak_memory() -> float:
    """Of this process, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
