"""Training cost against the size of the log: 1x, 4x and 16x as many users over one catalogue.

    python bench/scaling.py [--model sasrec] [--epochs 4] [--output bench/results/scaling.json]

Cost is linear in tokens if the seconds for a million targets stay the same. Users have 4 to 60 items (geometric, mean about 10)
of a catalogue of 4,000 with Zipf popularity; no learning is expected, only its cost.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
SCALES = (1, 4, 16)
USERS, ITEMS = 4_000, 4_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sasrec", help="a model that reads item ids")
    parser.add_argument("--epochs", type=int, default=4, help="the first is left out as warm-up")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "scaling.json")
    arguments = parser.parse_args()

    results = [{"scale": scale, **measure(scale, arguments.model, arguments.epochs)} for scale in SCALES]
    one = results[0]["seconds_a_million_targets"]
    print("| users | targets an epoch | epoch | seconds a million targets | / 1x | peak memory |")
    print("|---|---|---|---|---|---|")
    for r in results:
        r["over 1x"] = r["seconds_a_million_targets"] / one
        print(
            f"| {USERS * r['scale']:,} | {r['targets']:,.0f} | {r['epoch_seconds']:.2f} s | "
            f"{r['seconds_a_million_targets']:.1f} | {r['over 1x']:.2f} | {r['peak_memory_gib']:.2f} GiB |"
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def measure(scale: int, model: str, epochs: int) -> dict[str, float]:
    """Medians over the epochs of a training on `scale` times the users."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder / "log.parquet", USERS * scale)
        command = [sys.executable, "-m", "linguarec.cli"]
        prepare = ["prepare", "table", "--interactions", folder / "log.parquet", "-o", folder / "data"]
        options = ["--k-core", "0", "--order", "rank", "--duplicates", "keep"]
        subprocess.run([*command, *prepare, *options], check=True, stdout=subprocess.DEVNULL)
        finetune = ["finetune", model, folder / "data", "-o", folder / "run", "--training.max_epochs", str(epochs)]
        subprocess.run([*command, *finetune], check=True, stdout=subprocess.DEVNULL)
        with (folder / "run" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))[1:]
    seconds = statistics.median(float(row["seconds"]) for row in rows)
    targets = statistics.median(float(row["seconds"]) * float(row["targets_per_second"]) for row in rows)
    return {
        "targets": targets,
        "epoch_seconds": seconds,
        "seconds_a_million_targets": seconds / targets * 1e6,
        "peak_memory_gib": max(float(row["peak_memory_gib"]) for row in rows),
    }


def write_log(file: Path, users: int) -> None:
    """A log of `users` users as `user_id`, `item_id`, `timestamp` (their rank)."""
    generator = np.random.default_rng(0)
    lengths = np.minimum(3 + generator.geometric(1 / 7, size=users), 60)
    popularity = 1 / np.arange(1, ITEMS + 1)
    items = generator.choice(ITEMS, size=lengths.sum(), p=popularity / popularity.sum())
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    pq.write_table(
        pa.table({"user_id": np.repeat(np.arange(users), lengths), "item_id": items, "timestamp": position}), file
    )


if __name__ == "__main__":
    main()
