"""Throughput of pre-training beside the released shape of computation: padded, every prefix a row, every cell by itself.

    python bench/pretrain.py unisrec DATA... [--steps 50] [--rows 256] [--output bench/results/pretrain-unisrec.json]
    python bench/pretrain.py vqrec DATA...

DATA are prepared folders with vectors of one encoder (unisrec, with word-drop draws) or codes of one book (vqrec). Both sides
take the same sequences, sizes (hidden 300, 2 layers, 2 heads, 50 items) and losses. A sequence is one training row, that is one
(history, next item) pair: a position of ours, a padded row of the baseline. The baseline runs in float32 as released; with
`--baseline-bfloat16` under autocast. Its rows a step may be smaller than ours, for memory; its products grow with the rows
but for the [B, B] contrast.
"""

import argparse
import json
import resource
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pretrain_baseline
import torch

from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.pretraining import MixedLoader, Mixing, NegativeSettings, PretrainingLoader, ViewSettings
from linguarec.data.dataset import PreparedDataset
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.nn.encoders import TransformerConfig
from linguarec.sources.codes import CodeSource
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.joined import JoinedItems

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Throughput:
    """Medians over the steps. `targets_per_epoch`: of the folders; `peak_memory_gib`: of the GPU or the process."""

    model: str
    device: str
    steps: int
    seconds_per_step: float
    targets_per_second: float
    tokens_per_second: float
    loader_share: float
    targets_per_epoch: int
    peak_memory_gib: float


@dataclass(frozen=True)
class Corpus:
    """The folders as training reads them."""

    logs: TrainingLogs
    sources: list[EmbeddingSource] | list[CodeSource]


def open_corpus(model: str, folders: list[Path], features: str | None, codes: str | None) -> Corpus:
    """The folders with their only vectors or codes, unless named."""
    datasets = [PreparedDataset.open(folder) for folder in folders]
    logs = TrainingLogs([TrainingLog.of(dataset, "leave-one-out") for dataset in datasets])
    asked = {"features": features, "codes": codes}
    kind = CodeSource if model == "vqrec" else EmbeddingSource
    return Corpus(logs, kind.choose_for_all(datasets, asked))


def measure(
    model: str,
    corpus: Corpus,
    steps: int,
    targets_per_step: int,
    device: str,
    precision: torch.dtype = torch.bfloat16,
) -> Throughput:
    """Drawing, forward, backward and Adam of `steps` steps, after 3 others."""
    mixed = MixedLoader(corpus.logs, 50, targets_per_step, None, Mixing(), seed=0)
    items, first = JoinedItems(corpus.sources), corpus.sources[0]
    if isinstance(first, CodeSource):
        loader = PretrainingLoader(mixed, items, None, NegativeSettings(), first.centroids)
    else:
        loader = PretrainingLoader(mixed, items, ViewSettings())
    family = FAMILIES[model]
    description = ModelDescription(family, family.config(), TransformerConfig(), replace(first.shape, num_items=0))
    torch.manual_seed(0)
    network = description.build().to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    seconds, drawing, targets, tokens = [], [], [], []
    batches = iter(loader)
    for _ in range(steps + 3):
        started = time.perf_counter()
        batch = next(batches).to(device)
        drawn = time.perf_counter()
        with torch.autocast(device, precision):
            loss = network.pretrain_loss(batch)  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        drawing.append(drawn - started)
        targets.append(int((batch.sequences.targets >= 0).sum()))
        tokens.append(len(batch.sequences.items) + (0 if batch.augmented is None else len(batch.augmented.items)))
    middle = statistics.median(seconds[3:])
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Throughput(
        model,
        device,
        steps,
        middle,
        statistics.mean(targets[3:]) / middle,
        statistics.mean(tokens[3:]) / middle,
        statistics.median(drawing[3:]) / middle,
        corpus.logs.num_targets,
        round(peak, 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("unisrec", "vqrec"))
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--features")
    parser.add_argument("--codes")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--targets-per-step", type=int, default=2048)
    parser.add_argument("--baseline-steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=512, help="rows a step of the baseline")
    parser.add_argument("--baseline-bfloat16", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    corpus = open_corpus(arguments.model, arguments.data, arguments.features, arguments.codes)
    ours = measure(arguments.model, corpus, arguments.steps, arguments.targets_per_step, arguments.device)
    arrays: list[Any] = [
        source.codes if isinstance(source, CodeSource) else source.vectors for source in corpus.sources
    ]
    baseline = pretrain_baseline.measure(
        arguments.model,
        corpus.logs.sequences.values,
        corpus.logs.sequences.offsets,
        np.concatenate(arrays),
        arguments.baseline_steps,
        arguments.rows,
        device=arguments.device,
        bfloat16=arguments.baseline_bfloat16,
    )
    ratio = ours.targets_per_second / baseline.rows_per_second
    print("| system | sequences/s | step | peak memory |")
    print("|---|---|---|---|")
    print(
        f"| linguarec {ours.model}, {arguments.targets_per_step} targets a step | {ours.targets_per_second:,.0f} "
        f"| {ours.seconds_per_step * 1e3:.0f} ms ({ours.loader_share:.0%} drawing) | {ours.peak_memory_gib} GiB |"
    )
    print(
        f"| padded, {baseline.rows_per_step} rows a step | {baseline.rows_per_second:,.0f} "
        f"| {baseline.seconds_per_step * 1e3:,.0f} ms | {baseline.peak_memory_gib} GiB |"
    )
    epoch = ours.targets_per_epoch / ours.targets_per_second
    print(f"\nratio {ratio:.1f}; an epoch of these folders ({ours.targets_per_epoch:,} targets) takes {epoch:,.0f} s")
    output = arguments.output or HERE / "results" / f"pretrain-{arguments.model}.json"
    output.parent.mkdir(exist_ok=True)
    result = {"ours": asdict(ours), "baseline": asdict(baseline), "ratio": ratio, "threads": torch.get_num_threads()}
    output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
