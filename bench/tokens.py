"""Cost of item tokens: seconds, disk and peak memory of `linguarec tokenize`, and of a process that reads batches of the store.

    python bench/tokens.py                                          1,000,000 generated items
    python bench/tokens.py --items 200000 --output FILE

The catalogue is drawn by a seed from a vocabulary of made-up words: titles of 3 to 30 words, 11 on average, brands of one or
two, category paths of two to four levels. Every pass runs in a process of its own; its peak is `ru_maxrss`, in which the pages
of memory-mapped files count that it has read. Batches are 64 histories of 20 items drawn evenly, which share no page but by
chance: the worst case for a memory map.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa

HERE = Path(__file__).parent
WORDS, BRANDS, CATEGORIES, PATHS = 50_000, 30_000, 400, 2_000
CHUNK = 1 << 16  # items drawn at a time
BATCHES, HISTORIES, HISTORY_ITEMS = 100, 64, 20


def generate(path: Path, items: int, seed: int = 0) -> None:
    """A prepared folder of `items` items, with a user of about ten interactions for every five; one that is there is kept."""
    from generated_log import draw_items, draw_lengths, popularity

    from linguarec.data.folder import Content, Origin, write_folder
    from linguarec.data.splitting import SplitSettings, user_blocks

    if path.exists():
        return
    rng = np.random.default_rng(seed)
    users = max(1, items // 5)
    lengths = draw_lengths(rng, users, 10)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    cumulated = popularity(items)
    content = Content(
        items=item_tables(rng, items),
        attributes=["title", "brand", "categories"],
        users=(pa.array([f"u{row}" for row in range(users)]) for _ in range(1)),
        offsets=offsets,
        interactions=(
            (draw_items(rng, cumulated, int(offsets[last] - offsets[first])), None)
            for first, last in user_blocks(offsets)
        ),
    )
    origin = Origin("generated", {"items": items, "seed": seed}, "default")
    write_folder(path, origin, SplitSettings(), False, lambda _: nullcontext(content))


def item_tables(rng: np.random.Generator, number: int) -> Iterator[pa.Table]:
    """Raw ids, titles, brands, categories of the items, in pieces; common words occur more often (Zipf)."""
    vocabulary = made_up_words(rng, WORDS)
    frequency = np.cumsum(1 / (np.arange(len(vocabulary)) + 2.7))
    frequency /= frequency[-1]

    def phrases(lengths: np.ndarray) -> list[str]:
        words = vocabulary[np.searchsorted(frequency, rng.random(lengths.sum()))]
        ends = np.cumsum(lengths)
        return [" ".join(words[end - length : end]) for end, length in zip(ends, lengths, strict=True)]

    brands = np.array([phrase.title() for phrase in phrases(rng.integers(1, 3, BRANDS))], dtype=object)
    levels = np.array(phrases(rng.integers(1, 4, CATEGORIES)), dtype=object)
    paths = np.array(
        [" > ".join(levels[rng.integers(0, CATEGORIES, rng.integers(2, 5))]) for _ in range(PATHS)], object
    )
    for first in range(0, number, CHUNK):
        size = min(CHUNK, number - first)
        titles = phrases(np.clip(3 + rng.poisson(8, size), 3, 30))
        raw_ids = [f"i{row}" for row in range(first, first + size)]
        columns = {"title": titles, "brand": brands[rng.integers(0, BRANDS, size)]}
        columns["categories"] = paths[rng.integers(0, PATHS, size)]
        yield pa.table({"raw_id": raw_ids, **columns, "text": titles})


def made_up_words(rng: np.random.Generator, number: int) -> np.ndarray:
    """Distinct words of one to four syllables, shorter ones first."""
    begin = "b c d f g h l m n p r s t v w st tr br ch pl".split()  # noqa: SIM905
    end = "a e i o u an er in or ist and ell".split()  # noqa: SIM905
    syllables = np.array([first + last for first in begin for last in end], dtype=object)
    words = list(syllables)
    for length in (2, 3, 4):  # of each length four times as many as of the one before
        drawn = syllables[rng.integers(0, len(syllables), (number * 4**length // 256, length))]
        words += drawn.sum(axis=1).tolist()
    return np.array(list(dict.fromkeys(words))[:number], dtype=object)


def run_tokenize(path: Path) -> dict:
    """`linguarec tokenize` in this process."""
    from linguarec.commands.tokenize import tokenize
    from linguarec.text.attributes import AttributeTokenizer

    AttributeTokenizer.load()  # imports what the command imports
    before = peak_mib()
    worked = time.process_time()
    result = tokenize(path, overwrite=True)
    worked = time.process_time() - worked
    folder = path / "tokens" / result["tokens"]
    return {
        **{name: result[name] for name in ("items", "total_tokens", "mean_tokens", "cut_values", "seconds")},
        "processor_seconds": round(worked, 1),
        "items_per_second": round(result["items_per_second"]),
        "disk_mib": round(sum(file.stat().st_size for file in folder.iterdir()) / 2**20, 1),
        "peak_before_mib": before,
        "peak_mib": peak_mib(),
    }


def run_batches(path: Path) -> dict:
    """Batches of the store as evaluation and training assemble them."""
    from linguarec.batching.tokens import history_tokens
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.ragged import Ragged
    from linguarec.text.token_store import open_tokens

    dataset = PreparedDataset.open(path)
    before = peak_mib()
    tokens = open_tokens(dataset.tokens_path(dataset.token_names[0]), dataset.fingerprint).tokens
    opened = peak_mib()
    rng = np.random.default_rng(0)
    offsets = np.arange(HISTORIES + 1) * HISTORY_ITEMS
    read, started = 0, time.perf_counter()
    for _ in range(BATCHES):
        histories = Ragged(rng.integers(0, len(tokens), HISTORIES * HISTORY_ITEMS), offsets)
        read += len(history_tokens(tokens, histories, 50, 1024).ids)
    seconds = time.perf_counter() - started
    return {
        "ms_per_batch": round(1e3 * seconds / BATCHES, 2),
        "tokens_per_batch": round(read / BATCHES),
        "peak_before_mib": before,
        "peak_opened_mib": opened,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measured(what: str, path: Path, items: int) -> dict:
    """One pass in a process of its own."""
    command = [sys.executable, __file__, "--one", what, "--work", str(path), "--items", str(items)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Generate, measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "linguarec-bench-tokens")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "tokens.json")
    parser.add_argument("--one", choices=("generate", "tokenize", "batches"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one == "generate":
        generate(arguments.work, arguments.items)
        print("{}")
        return
    if arguments.one:
        print(json.dumps({"tokenize": run_tokenize, "batches": run_batches}[arguments.one](arguments.work)))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    path = arguments.work / f"items-{arguments.items}"
    measured("generate", path, arguments.items)
    made, read = (measured(what, path, arguments.items) for what in ("tokenize", "batches"))
    print("| items | tokens an item | items/s | on disk | peak memory, tokenize | 100 batches | peak memory, batches |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {made['items']:,} | {made['mean_tokens']} | {made['items_per_second']:,} | {made['disk_mib']:,} MiB "
        f"| {made['peak_mib']:,} MiB ({made['peak_before_mib']:,} before) | {read['ms_per_batch']} ms each "
        f"| {read['peak_mib']:,} MiB ({read['peak_before_mib']:,} before) |"
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"cores": os.cpu_count(), "tokenize": made, "batches": read}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
