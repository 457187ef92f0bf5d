"""A generated pre-training corpus of the papers' size, as prepared folders.

    python bench/corpus.py FOLDER                  5 prepared folders: 1.36 M users, 447 k items, 14.0 M interactions
    python bench/corpus.py FOLDER --scale 0.01     a hundredth of each

The corpus is written as `linguarec prepare`, `encode` and `quantize` would leave it, with random vectors and codes: it measures
speed and memory, not accuracy. It is drawn in pieces, so that memory does not grow with it.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from generated_log import SHORTEST, draw_items, draw_lengths, popularity

from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.data.folder import Content, Origin, write_folder
from linguarec.data.splitting import SplitSettings, user_blocks
from linguarec.files import write_json

FEATURES = CODES = "generated"
SUBVECTORS, CENTROIDS = 32, 256
CHUNK = 1 << 16  # items drawn at a time


@dataclass(frozen=True)
class Size:
    """Users, items and interactions of a domain."""

    name: str
    users: int
    items: int
    interactions: int


# Table 1 of the UniSRec paper: 1,361,408 users, 446,975 items, 14,029,229 interactions.
PAPER = (
    Size("Food", 115_349, 39_670, 1_027_413),
    Size("Home", 731_913, 185_552, 6_451_926),
    Size("CDs", 94_010, 64_439, 1_118_563),
    Size("Kindle", 138_436, 98_111, 2_204_596),
    Size("Movies", 281_700, 59_203, 3_226_731),
)


def generate_corpus(
    folder: Path, scale: float = 1.0, width: int = 384, dtype: str = "float16", word_drop_draws: int = 1, seed: int = 0
) -> list[Path]:
    """The prepared folders of a corpus under `folder`, one a domain; those that are there already are kept.

    Args:
        scale: share of the papers' users, items and interactions.
        width: of the item vectors, a multiple of 32.
        dtype: float16 or float32, of the item vectors.
        word_drop_draws: further draws of the vectors.
        seed: of everything drawn.
    """
    made = folder / f"corpus-{scale:g}-{width}-{dtype}-{word_drop_draws}-{seed}"
    rng = np.random.default_rng(seed)
    centroids = rng.standard_normal((SUBVECTORS, CENTROIDS, width // SUBVECTORS), dtype=np.float32)
    book = CodeBook("pq", centroids, None, None, FEATURES)
    paths = []
    for number, paper in enumerate(PAPER):
        size = Size(
            paper.name, *(max(64, round(scale * count)) for count in (paper.users, paper.items, paper.interactions))
        )
        path = made / size.name
        if not (path / "codes" / f"{CODES}.npz").exists():  # written last
            _write_domain(path, size, book, dtype, word_drop_draws, np.random.default_rng([seed, number]))
        paths.append(path)
    return paths


def _write_domain(
    path: Path, size: Size, book: CodeBook, dtype: str, word_drop_draws: int, rng: np.random.Generator
) -> None:
    arguments = {**asdict(size), "width": book.width, "dtype": dtype}

    def make_content(_: Path) -> AbstractContextManager[Content]:
        return nullcontext(_content(size, rng))

    write_folder(path, Origin("generated", arguments, "default"), SplitSettings(), True, make_content)
    dataset = PreparedDataset.open(path)
    file = dataset.feature_path(FEATURES)
    file.parent.mkdir(exist_ok=True)
    for target in (file, *(file.with_suffix(f".drop{draw}.npy") for draw in range(word_drop_draws))):
        vectors = np.lib.format.open_memmap(target, "w+", np.dtype(dtype), (size.items, book.width))
        for first in range(0, size.items, CHUNK):
            shape = vectors[first : first + CHUNK].shape
            vectors[first : first + CHUNK] = rng.standard_normal(shape, dtype=np.float32)
    info = FeatureInfo(FEATURES, book.width, "mean", None, None, "default")
    write_json(file.with_suffix(".json"), asdict(info))
    codes = rng.integers(CENTROIDS, size=(size.items, SUBVECTORS), dtype=np.uint8)
    ItemCodes(codes, book).save(dataset.codes_path(CODES))


def _content(size: Size, rng: np.random.Generator) -> Content:
    lengths = draw_lengths(rng, size.users, size.interactions / size.users)
    missing = size.interactions - int(lengths.sum())
    while missing:  # to the very number: one more, or one less, of as many users as it takes
        able = np.flatnonzero((lengths > SHORTEST) | (missing > 0))
        chosen = rng.choice(able, size=min(abs(missing), len(able)), replace=False)
        lengths[chosen] += np.sign(missing)
        missing = size.interactions - int(lengths.sum())
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    cumulated = popularity(size.items)

    def raw_ids(prefix: str, number: int) -> Iterator[pa.Array]:
        for first in range(0, number, CHUNK):
            yield pa.array([f"{size.name}-{prefix}{row}" for row in range(first, min(first + CHUNK, number))])

    return Content(
        items=(pa.table({"raw_id": ids, "text": pa.array([""] * len(ids))}) for ids in raw_ids("i", size.items)),
        attributes=[],
        users=raw_ids("u", size.users),
        offsets=offsets,
        interactions=(
            (draw_items(rng, cumulated, int(offsets[last] - offsets[first])), None)
            for first, last in user_blocks(offsets)
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    arguments = parser.parse_args()
    started = time.perf_counter()
    paths = generate_corpus(arguments.folder, arguments.scale, arguments.width, arguments.dtype)
    for path in paths:
        print(PreparedDataset.open(path))
    print(f"{time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
