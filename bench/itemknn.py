"""Seconds and peak memory of counting item-kNN's similarities on a generated log, beside one plain sparse product.

    python bench/itemknn.py [--items 1000000 --interactions 14000000] [--output bench/results/itemknn.json]

The log has a popularity and lengths as those of the other generated logs (bench/generated_log.py). Each measurement is a
process of its own, and its peak is that of the whole process, libraries and log included. The plain product counts all
pairs at once and keeps them all; it is made on a log of a tenth of the size (items and interactions), beside item-kNN on
the same.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from generated_log import draw_items, draw_lengths, popularity
from scipy import sparse

from linguarec.data.ragged import Ragged
from linguarec.families.itemknn.model import ItemKNNConfig, nearest

MEAN_LENGTH = 14


def generated(num_items: int, interactions: int) -> Ragged:
    """Sequences of item rows, about `interactions` in all."""
    rng = np.random.default_rng(0)
    lengths = draw_lengths(rng, interactions // MEAN_LENGTH, MEAN_LENGTH)
    values = draw_items(rng, popularity(num_items), int(lengths.sum())).astype(np.int32)
    return Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))


def plain(sequences: Ragged, num_items: int) -> int:
    """All counts at once; how many they are."""
    values = np.asarray(sequences.values)
    users = sparse.csr_array((np.ones(len(values), np.float32), values, sequences.offsets), (len(sequences), num_items))
    users.sum_duplicates()
    users.data[:] = 1
    return int((users.T @ users).nnz)


def measure(way: str, num_items: int, interactions: int) -> dict[str, float | int | str]:
    """One way in this process."""
    sequences = generated(num_items, interactions)
    before, load, started = _peak(), os.getloadavg()[0], time.perf_counter()
    processor = time.process_time()
    if way == "plain":
        pairs = plain(sequences, num_items)
    else:
        config = ItemKNNConfig()
        pairs = int(nearest(sequences, num_items, config.neighbours, config.shrinkage).nnz)
    return {
        "way": way,
        "items": num_items,
        "interactions": len(sequences.values),
        "pairs": pairs,
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
        "gib_before": before,
        "peak_gib": _peak(),
        "load": load,
    }


def _peak() -> float:
    """Peak resident memory of this process (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, default=14_000_000)
    parser.add_argument("--only", choices=("itemknn", "plain"), help="measure in this process and print JSON")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "itemknn.json")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.items, arguments.interactions)))
        return
    found = []
    for way, part in (("plain", 10), ("itemknn", 10), ("itemknn", 1)):
        sizes = ["--items", str(arguments.items // part), "--interactions", str(arguments.interactions // part)]
        command = [sys.executable, __file__, "--only", way, *sizes]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print("{way:8} {items:>9,} items  {seconds:6.1f} s  peak {peak_gib:.2f} GiB".format(**found[-1]))
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
