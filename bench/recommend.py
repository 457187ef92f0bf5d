"""Recommending at scale: seconds of the rankers, the catalogue and a whole `Recommender`, and their ratio to the bare product.

    python bench/recommend.py [--items 4385 1000000] [--vectors TEXT_VECTORS.npy] [--output bench/results/recommend.json]

For each number of items: exact ranking of one and of 64 queries beside `torch.mv` and `torch.matmul` of the same keys, turn
by turn in one process; adding and removing one item; the approximate ranker and its recall; and, in a process of its own, a
run folder of so many items that is opened, asked, added to and removed from through `linguarec.load_model` alone.

Keys are made of `--vectors` [M, F] (such as text vectors of real items): rotated to their first `--width` principal
components, and multiplied to N items as 0.8 of one + 0.2 of another + 0.15 of a random direction. Queries are means of eight
such items, the later ones heavier. Without `--vectors` the M are drawn from 2,000 clusters. Times are medians.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

import linguarec
from linguarec.catalogue import Catalogue
from linguarec.data.features import FeatureInfo
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.families.weights import seal_model
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.approximate import ApproximateRanker
from linguarec.ranking.dense import DenseRanker
from linguarec.recommender import Recommender
from linguarec.sources.embeddings import EmbeddingSource

Vectors = npt.NDArray[np.float32]
TEXT_WIDTH = 384
ROWS_AT_ONCE = 50_000


def normalised(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def base_vectors(file: Path | None, width: int, rng: np.random.Generator) -> Vectors:
    """[M, width] that the keys are mixed from."""
    if file is None:
        centres = rng.standard_normal((2_000, width), dtype=np.float32)
        drawn = centres[rng.integers(0, 2_000, 60_000)]
        return normalised(drawn + rng.standard_normal(drawn.shape, dtype=np.float32))
    vectors = normalised(np.load(file).astype(np.float32))
    centred = vectors - vectors.mean(axis=0)
    components = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :width]
    return normalised(vectors @ components)


def write_keys(file: Path, base: Vectors, count: int, rng: np.random.Generator) -> None:
    """Keys [count, D] of unit length, into a NumPy file."""
    keys = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(count, base.shape[1]))
    for start in range(0, count, ROWS_AT_ONCE):
        part = min(ROWS_AT_ONCE, count - start)
        one, other = base[rng.integers(0, len(base), part)], base[rng.integers(0, len(base), part)]
        jitter = normalised(rng.standard_normal((part, base.shape[1]), dtype=np.float32))
        keys[start : start + part] = normalised(0.8 * one + 0.2 * other + 0.15 * jitter)
    keys.flush()


def queries_of(base: Vectors, count: int, rng: np.random.Generator) -> torch.Tensor:
    """[count, D]: means of eight neighbours in the list of `base` (items of one shop), the later ones heavier."""
    first = rng.integers(0, len(base) - 8, count)
    weights = (0.8 ** np.arange(8, dtype=np.float32))[::-1]
    mixed = (base[first[:, None] + np.arange(8)] * weights[None, :, None]).sum(axis=1)
    jitter = normalised(rng.standard_normal(mixed.shape, dtype=np.float32))
    return torch.from_numpy(normalised(normalised(mixed) + 0.15 * jitter).astype(np.float32))


def turn_by_turn(calls: dict[str, Callable[[int], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each call, called one after the other `repeats` times, so that they share what disturbs them."""
    for call in calls.values():
        call(0)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call(number)
            taken[name].append(1000 * (time.perf_counter() - started))
    found = {name: float(np.median(times)) for name, times in taken.items()}
    return found | {f"{name}_p99": float(np.percentile(times, 99)) for name, times in taken.items()}


def measure_rankers(file: Path, queries: torch.Tensor) -> dict[str, Any]:
    keys = torch.from_numpy(np.load(file))  # in memory, for the bare product
    count, repeats = len(keys), 300 if len(keys) < 100_000 else 15
    ranker = DenseRanker(keys)
    grown = ranker.with_added(queries[:3]).with_removed(np.array([1, 5]))
    batch, one = queries[:64], [queries[number : number + 1] for number in range(len(queries))]
    some = np.random.default_rng(0).permutation(count)
    found: dict[str, Any] = {"items": count, "width": keys.shape[1]}
    found["exact_ms"] = turn_by_turn(
        {
            "bare_product": lambda n: torch.mv(keys, one[n % 64][0]),
            "top_10": lambda n: ranker.top_k(one[n % 64], 10),
            "top_10_after_changes": lambda n: grown.top_k(one[n % 64], 10),
            "top_10_within_100": lambda n: ranker.top_k(one[n % 64], 10, within=some[:100]),
            "top_10_within_half": lambda n: ranker.top_k(one[n % 64], 10, within=some[: count // 2]),
            "add_one": lambda n: grown.with_added(one[n % 64]),
            "remove_one": lambda n: grown.with_removed(some[n : n + 1]),
        },
        repeats,
    )
    found["exact_64_ms"] = turn_by_turn(
        {"bare_product": lambda n: batch @ keys.T, "top_10": lambda n: ranker.top_k(batch, 10)}, max(3, repeats // 5)
    )
    for times in (found["exact_ms"], found["exact_64_ms"]):
        times["ratio"] = times["top_10"] / times["bare_product"]
    if count >= 100_000:
        found["approximate"] = measure_approximate(ranker, queries, file.with_suffix(".npz"))
    return found


def measure_approximate(ranker: DenseRanker, queries: torch.Tensor, file: Path) -> dict[str, Any]:
    started = time.perf_counter()
    built = ApproximateRanker.build(ranker)
    seconds = time.perf_counter() - started
    built.save(file)
    started = time.perf_counter()
    opened = ApproximateRanker.load(file, ranker)
    opening = time.perf_counter() - started
    times = turn_by_turn(
        {
            "top_10": lambda n: opened.top_k(queries[n % 64 : n % 64 + 1], 10),
            "top_10_of_64": lambda n: opened.top_k(queries[:64], 10),
        },
        100,
    )
    return {
        "build_seconds": seconds,
        "open_seconds": opening,
        "megabytes": file.stat().st_size / 1e6,
        "recall@10": opened.recall(queries, 10),
        "recall_queries": len(queries),
        **{f"{name}_ms": value for name, value in times.items()},
    }


def write_run(folder: Path, keys: Path, text_vectors: Vectors) -> None:
    """A run folder of an untrained UniSRec that knows the items of `keys`; inputs of histories are the keys too."""
    width = np.load(keys, mmap_mode="r").shape[1]
    count = len(np.load(keys, mmap_mode="r"))
    family = FAMILIES["unisrec"]
    encoder = TransformerConfig(hidden_size=width, layers=2, heads=2, inner_size=256, max_length=50)
    description = ModelDescription(family, family.config(), encoder, CatalogueShape(len(text_vectors), TEXT_WIDTH))
    info = FeatureInfo("none", TEXT_WIDTH, "none", None, None, "default")
    source = EmbeddingSource(folder, info, text_vectors)
    table = pa.table({"raw_id": [f"few{n}" for n in range(len(text_vectors))], "title": ["x"] * len(text_vectors)})
    table = table.append_column("text", table["title"])
    scorer = family.scorer(description.build().eval(), description, source, None)
    folder.mkdir()
    Recommender.of_items(scorer, description, Catalogue.of(table, ["title"], "default"), source).save(folder)
    for name in ("keys.npy", "inputs.npy"):
        (folder / name).unlink()
        os.link(keys, folder / name)
    titles = [f"Item {n} of the shop, its colour and its size" for n in range(count)]
    texts = [
        f"{title}. Its brand. Its category > and the next. What it is made of and what it is for." for title in titles
    ]
    items = pa.table({"raw_id": [f"B{7919 * n % 10**9:09d}" for n in range(count)], "title": titles, "text": texts})
    Catalogue.of(items, ["title"], "default").save(folder / "catalogue.parquet")
    seal_model(folder)


def measure_run(folder: Path) -> dict[str, Any]:
    """Everything through the public face; in a process that has done nothing else."""
    before, anonymous = memory("VmHWM"), memory("RssAnon")
    started = time.perf_counter()
    model = linguarec.load_model(folder)
    opened = time.perf_counter() - started
    count, rng = len(model.catalogue), np.random.default_rng(0)
    ids = [f"B{7919 * n % 10**9:09d}" for n in rng.integers(0, count, 2_000).tolist()]
    histories = [ids[8 * n : 8 * n + 8] for n in range(200)]
    started = time.perf_counter()
    model.recommend(histories[:1], 10)
    first = time.perf_counter() - started
    repeats = 300 if count < 100_000 else 30
    peak = memory("VmHWM")
    keys = torch.from_numpy(np.load(folder / "keys.npy"))
    query = torch.from_numpy(model.history_vectors(histories[:1])[0])
    vectors = rng.standard_normal((1, TEXT_WIDTH)).astype(np.float32)
    times = turn_by_turn(
        {
            "bare_product": lambda n: torch.mv(keys, query),
            "recommend_1": lambda n: model.recommend([histories[n % 200]], 10),
            "recommend_64": lambda n: model.recommend(histories[n % 100 : n % 100 + 64], 10),
            "add_items": lambda n: model.add_items(
                [{"raw_id": f"new{time.perf_counter_ns()}", "title": "new"}], vectors=vectors
            ),
            "remove_items": lambda n: model.remove_items([ids[n]]),
        },
        repeats,
    )
    key_bytes = keys.numel() * 4
    return {
        "open_seconds": opened,
        "first_recommend_seconds": first,
        "recommend_ms": times | {"ratio": times["recommend_1"] / times["bare_product"]},
        "peak_memory_over_keys": {  # imports do not count, nor the copy for the bare product
            "opened_and_asked": (peak - before) / key_bytes,
            "after_everything": (memory("VmHWM") - before) / key_bytes - 1,
            # Of inputs.npy a call reads some rows, and the kernel maps all that its page cache holds around them. Here the copy
            # for the bare product counts in place of the mapped keys.
            "after_everything_without_page_cache_of_inputs": (memory("RssAnon") - anonymous) / key_bytes,
        },
    }


def memory(kind: str) -> int:
    """Bytes of this process in memory: `VmHWM` the most so far, mapped files included; `RssAnon` now, without files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(kind)).split()[1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[4_385, 1_000_000])
    parser.add_argument("--width", type=int, default=300)
    parser.add_argument("--vectors", type=Path, help="text vectors [M, F], a NumPy file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--run", type=Path, help="measure this run folder alone, and print the figures")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "recommend.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.run is not None:
        print(json.dumps(measure_run(options.run)))
        return
    results = []
    for count in options.items:
        rng = np.random.default_rng(0)
        base = base_vectors(options.vectors, options.width, rng)
        with tempfile.TemporaryDirectory() as temporary:
            keys, run = Path(temporary) / "keys.npy", Path(temporary) / "run"
            write_keys(keys, base, count, rng)
            found = measure_rankers(keys, queries_of(base, 500, rng))
            write_run(run, keys, rng.standard_normal((8, TEXT_WIDTH)).astype(np.float32))
            command = [sys.executable, __file__, "--run", str(run), "--threads", str(options.threads)]
            found["run"] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        results.append(found)
        print(json.dumps(found, indent=2), flush=True)
    about = {
        "threads": options.threads,
        "load_average": os.getloadavg()[0],
        "vectors": "given" if options.vectors else "2,000 clusters",
    }
    options.output.write_text(json.dumps({**about, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
