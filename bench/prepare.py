"""Cost of preparation: seconds and peak memory of `linguarec prepare`, beside a plain-Python pass (sets and dicts).

    python bench/prepare.py --interactions 14000000                 the size of the papers' pre-training corpus
    python bench/prepare.py --interactions 140000000 --no-plain     ten times that, in the same memory
    python bench/prepare.py --online-retail online_retail.csv.xz    start-up and unpacking included

Every pass runs in a process of its own, so that peak memory is its own and start-up counts. The plain pass does what
the released preprocessing does up to sequences and texts (it writes no prefix files and encodes no text): a set of
tuples, k-core by dicts, sorting user by user, indices, cleaned texts.
"""

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
from generated_log import draw_items, draw_lengths, popularity

ITEMS_PER_INTERACTION = 447_000 / 14_000_000
USERS_PER_INTERACTION = 1_360_000 / 14_000_000
WORDS = np.array(
    "steel black small large pack set kit pro red blue cable case drill filter lamp glass cotton paper tool".split()  # noqa: SIM905
)


def generate(folder: Path, interactions: int, seed: int = 0) -> tuple[Path, Path]:
    """A ratings CSV (item,user,rating,time) and a metadata JSON.gz in the form of Amazon 2018."""
    ratings, meta = folder / f"ratings_{interactions}.csv", folder / f"meta_{interactions}.json.gz"
    if ratings.exists() and meta.exists():
        return ratings, meta
    rng = np.random.default_rng(seed)
    num_users, num_items = round(interactions * USERS_PER_INTERACTION), round(interactions * ITEMS_PER_INTERACTION)
    cumulated = popularity(num_items)
    mean_length = interactions / num_users
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    schema = pa.schema([("item", pa.string()), ("user", pa.string()), ("rating", pa.string()), ("time", pa.int64())])
    partial = ratings.with_suffix(".partial")
    written = 0
    with pyarrow.csv.CSVWriter(partial, schema, write_options=options) as writer:
        for first in range(0, num_users, 500_000):
            last = min(first + 500_000, num_users)
            lengths = draw_lengths(rng, last - first, mean_length)
            users = np.repeat(np.arange(first, last), lengths)
            rng.shuffle(users)
            if last == num_users:
                users = users[: max(0, interactions - written)]
            items = draw_items(rng, cumulated, len(users))
            times = 1_230_768_000 + 86_400 * rng.integers(0, 3_500, len(users))
            stars = np.array(["1.0", "2.0", "3.0", "4.0", "5.0"])[rng.integers(0, 5, len(users))]
            writer.write_table(
                pa.table([_ids("B", items), _ids("A", users), pa.array(stars), pa.array(times)], schema=schema)
            )
            written += len(users)
    partial.rename(ratings)
    with gzip.open(meta, "wt", compresslevel=1) as file:
        for item, words in enumerate(rng.integers(0, len(WORDS), (num_items, 8))):
            title = " ".join(WORDS[words[:6]]) + f" {item} &amp; more"
            category = ["Home & Kitchen", str(WORDS[words[6]]).title(), str(WORDS[words[7]]).title()]
            record = {
                "asin": f"B{item:011d}",
                "title": title,
                "category": category,
                "brand": str(WORDS[words[0]]).title(),
            }
            file.write(json.dumps(record) + "\n")
    return ratings, meta


def _ids(prefix: str, numbers: np.ndarray) -> pa.Array:
    digits = pa.compute.utf8_lpad(pa.array(numbers).cast(pa.string()), 11, "0")
    return pa.compute.binary_join_element_wise(prefix, digits, "")


def plain_amazon(ratings: Path, meta: Path) -> tuple[int, int, int]:
    """The plain pass over generated files; returns users, items, interactions."""
    interactions = set()
    with ratings.open() as file:
        for line in file:
            item, user, rating, moment = line.strip().split(",")
            interactions.add((user, item, float(rating), int(moment)))
    records = {}
    with gzip.open(meta, "rt") as file:
        for line in file:
            record = json.loads(line)
            records[record["asin"]] = record
    kept = plain_k_core([row for row in interactions if row[1] in records], 5)
    texts = {}
    for row in kept:
        if row[1] not in texts:
            record = records[row[1]]
            texts[row[1]] = plain_text([record["title"], " ".join(record["category"]), record["brand"]])
    return plain_sequences(kept)


def plain_online_retail(log: Path) -> tuple[int, int, int]:
    """The plain pass over Online Retail; returns users, items, interactions."""
    import csv
    import datetime
    import lzma

    interactions, descriptions = set(), {}
    with lzma.open(log, "rt", encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        for invoice, code, description, quantity, moment, *_ in reader:
            if description:
                seconds = datetime.datetime.strptime(moment, "%Y-%m-%d %H:%M:%S").timestamp()
                interactions.add((invoice, code, float(quantity), int(seconds)))
                descriptions.setdefault(code, description)
    kept = plain_k_core(list(interactions), 5)
    for code in {row[1] for row in kept}:
        plain_text([descriptions[code]])
    return plain_sequences(kept)


def plain_k_core(rows: list, minimum: int) -> list:
    """Users and items with fewer than `minimum` rows out, until none is left."""
    while True:
        users: dict = {}
        items: dict = {}
        for row in rows:
            users[row[0]] = users.get(row[0], 0) + 1
            items[row[1]] = items.get(row[1], 0) + 1
        if min(users.values()) >= minimum and min(items.values()) >= minimum:
            return rows
        rows = [row for row in rows if users[row[0]] >= minimum and items[row[1]] >= minimum]


def plain_text(fields: list[str]) -> str:
    """Cleaned and joined."""
    import html
    import re

    return " ".join(re.sub(r'["\n\r]', "", html.unescape(field)).rstrip(".") + "." for field in fields)


def plain_sequences(rows: list) -> tuple[int, int, int]:
    """Sort user by user, number users and items, split leave-one-out."""
    by_user: dict = {}
    for row in rows:
        by_user.setdefault(row[0], []).append(row)
    items: dict = {}
    splits = []
    for of_user in by_user.values():
        of_user.sort(key=lambda row: row[3])
        sequence = [items.setdefault(row[1], len(items)) for row in of_user]
        splits.append((sequence[:-2], sequence[-2], sequence[-1]))
    return len(by_user), len(items), sum(len(train) + 2 for train, _, _ in splits)


def measured(arguments: list[str]) -> dict:
    """Run this script with `arguments` in a process of its own: its result, seconds, processor seconds and peak MiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**result, "seconds": round(seconds, 1), "processor_seconds": round(cpu, 1)}


def run_one(what: str, paths: list[Path]) -> dict:
    """One pass in this process."""
    if what == "plain-amazon":
        users, items, rows = plain_amazon(*paths)
    elif what == "plain-online-retail":
        users, items, rows = plain_online_retail(*paths)
    else:
        from linguarec.commands.prepare import prepare_amazon, prepare_online_retail

        with tempfile.TemporaryDirectory(dir=paths[-1]) as folder:
            output = Path(folder) / "prepared"
            if what == "amazon":
                result = prepare_amazon("2018", paths[0], paths[1], output)
            else:
                result = prepare_online_retail(paths[0], output, ties="random")
        users, items, rows = result["users"], result["items"], result["interactions"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"users": users, "items": items, "interactions": rows, "peak_mib": round(peak)}


def main() -> None:
    """Generate, measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=14_000_000)
    parser.add_argument("--online-retail", type=Path, help="measure on this file instead")
    parser.add_argument("--plain", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "linguarec-bench-prepare")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, *paths = arguments.one
        print(json.dumps(run_one(what, [Path(path) for path in paths])))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.online_retail:
        name, files = "online-retail", [arguments.online_retail]
    else:
        name, files = "amazon", list(generate(arguments.work, arguments.interactions))
    passes = {"linguarec": measured(["--one", name, *map(str, files), str(arguments.work)])}
    if arguments.plain:
        passes["plain Python"] = measured(["--one", f"plain-{name}", *map(str, files)])
        passes["ratio"] = {"seconds": round(passes["plain Python"]["seconds"] / passes["linguarec"]["seconds"], 1)}
    for who, result in passes.items():
        print(f"{who:14}", "  ".join(f"{key} {value:,}" for key, value in result.items()))
    if arguments.output:
        arguments.output.write_text(json.dumps({"cores": os.cpu_count(), **passes}, indent=2) + "\n")


if __name__ == "__main__":
    main()
