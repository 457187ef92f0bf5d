"""Latency of a run's exported files with onnxruntime beside that of the run itself: `onnx_latency.py RUN EXPORTED`.

Both use one thread. Prints the median over 300 calls, in milliseconds: the query alone, and the best ten of the catalogue.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import linguarec

CALLS, WARM = 300, 20


def median(call: Callable[[list[str]], Any], histories: list[list[str]]) -> float:
    times = []
    for number in range(WARM + CALLS):
        start = time.perf_counter()
        call(histories[number % len(histories)])
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[WARM:])


def main(run: Path, exported: Path) -> None:
    torch.set_num_threads(1)
    recommender = linguarec.load_model(run)
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))
    inputs, keys = (np.load(exported / f"{name}.npy", mmap_mode="r") for name in ("inputs", "keys"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported / "model.onnx", options)
    row_of = {raw_id: row for row, raw_id in enumerate(manifest["raw_ids"])}

    def query(history: list[str]) -> Any:
        read = [row_of[raw_id] for raw_id in history]
        return session.run(None, {"items": inputs[read][None], "lengths": np.array([len(read)])})[0][0]

    def best(history: list[str]) -> Any:
        scores = keys @ query(history)
        scores[[row_of[raw_id] for raw_id in history]] = -np.inf
        found = np.argpartition(-scores, 10)[:10]
        return found[np.argsort(-scores[found])]

    generator = np.random.default_rng(0)
    for length in (5, 50):
        rows = generator.integers(len(manifest["raw_ids"]), size=(20, length))
        histories = [[manifest["raw_ids"][row] for row in history] for history in rows]
        print(f"{len(keys):,} items of width {keys.shape[1]}, histories of {length}: query, best ten (ms)")
        print(f"  linguarec    {median(recommender.history_vectors, histories):.2f}  ", end="")
        print(f"{median(recommender.recommend, histories):.2f}")
        print(f"  onnxruntime  {median(query, histories):.2f}  {median(best, histories):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
