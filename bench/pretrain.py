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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pretrain_baseline
import torch

from linguarec.batching.domains import Domain, Domains
from linguarec.batching.pretraining import AugmentationSettings, PretrainingLoader
from linguarec.data.dataset import PreparedDataset
from linguarec.models import MODELS, build_model
from linguarec.nn.shape import CatalogueShape
from linguarec.nn.encoders import TransformerConfig

HERE = Path(__file__).parent
CENTROIDS = 256


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


def open_domains(model: str, folders: list[Path], features: str | None, codes: str | None) -> Domains:
    """The folders as training reads them; their only vectors or codes unless named."""
    domains = []
    for folder in folders:
        dataset = PreparedDataset.open(folder)
        if MODELS[model].reads == "codes":
            domains.append(Domain.of(dataset, "leave-one-out", None, codes or dataset.code_names[0]))
        else:
            domains.append(Domain.of(dataset, "leave-one-out", features or dataset.feature_names[0], None))
    return Domains(domains)


def measure(
    model: str,
    domains: Domains,
    steps: int,
    targets_per_step: int,
    device: str,
    precision: torch.dtype = torch.bfloat16,
) -> Throughput:
    """Drawing, forward, backward and Adam of `steps` steps, after 3 others."""
    first = domains.domains[0]
    has_codes = first.codes is not None
    shape = (
        CatalogueShape(0, code_books=first.codes.shape[1], centroids=CENTROIDS)
        if first.codes is not None
        else CatalogueShape(0, first.features.shape[1])  # type: ignore[union-attr]
    )
    loader = PretrainingLoader(
        domains, 50, targets_per_step, None, 1.0, CENTROIDS if has_codes else None, AugmentationSettings(), seed=0
    )
    torch.manual_seed(0)
    network = build_model(model, MODELS[model].config(), TransformerConfig(), shape).to(device).train()
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
        sum(domain.num_targets for domain in domains.domains),
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

    domains = open_domains(arguments.model, arguments.data, arguments.features, arguments.codes)
    ours = measure(arguments.model, domains, arguments.steps, arguments.targets_per_step, arguments.device)
    sources: list[Any] = [d.codes if arguments.model == "vqrec" else d.features for d in domains.domains]
    baseline = pretrain_baseline.measure(
        arguments.model,
        domains.sequences.values,
        domains.sequences.offsets,
        np.concatenate(sources),
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
