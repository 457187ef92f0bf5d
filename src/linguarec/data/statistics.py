"""What a prepared folder holds and what is wrong with it, as numbers."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linguarec.data.dataset import PreparedDataset
from linguarec.data.leakage import Leakage
from linguarec.data.splits import EXCLUDED, TEST, TRAIN, VALID
from linguarec.data.splitting import user_blocks
from linguarec.data.ties import TiedNeighbours

LENGTH_BINS = (0, 1, 3, 5, 6, 8, 11, 16, 21, 31, 51, 101, 201)
LONG_TEXT = 2000  # characters
EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """Something that may spoil training or evaluation: what, how many, of how many, and a few raw ids."""

    what: str
    number: int
    out_of: int
    examples: tuple[str, ...] = ()


def length_histogram(lengths: npt.NDArray[np.int64]) -> list[tuple[int, int | None, int]]:
    """(shortest, longest, number of users) of each bin of sequence lengths; longest None = open end; empty ends cut off."""
    edges = np.array([*LENGTH_BINS, np.iinfo(np.int64).max])
    counts = np.histogram(lengths, bins=edges)[0]
    filled = np.flatnonzero(counts)
    if len(filled) == 0:
        return []
    bins = range(filled[0], filled[-1] + 1)
    return [
        (LENGTH_BINS[k], LENGTH_BINS[k + 1] - 1 if k + 1 < len(LENGTH_BINS) else None, int(counts[k])) for k in bins
    ]


def spread(values: npt.NDArray[np.int64]) -> dict[str, float]:
    """Mean, least, median, 95th percentile, largest."""
    if len(values) == 0:
        return {}
    return {
        "mean": round(float(values.mean()), 2),
        "min": int(values.min()),
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": int(values.max()),
    }


def text_statistics(dataset: PreparedDataset) -> dict[str, dict[str, float]]:
    """Spread of characters and words of the item texts, and the share of items that have each attribute."""
    texts = dataset.texts
    filled = {
        name: round(sum(bool(value) for value in dataset.items([name])[name].to_pylist()) / max(1, len(texts)), 4)
        for name in dataset.manifest.attributes
    }
    return {
        "characters": spread(np.array([len(text) for text in texts])),
        "words": spread(np.array([len(text.split()) for text in texts])),
        "attributes_filled": filled,
    }


def time_span(dataset: PreparedDataset) -> tuple[int, int] | None:
    """The first and the last time in seconds since 1970; None = times are not known."""
    times = dataset.timestamps
    return None if times is None or len(times) == 0 else (int(times.min()), int(times.max()))


def split_sizes(dataset: PreparedDataset) -> dict[str, dict[str, int]]:
    """Interactions in each role of each split."""
    names = {TRAIN: "train", VALID: "valid", TEST: "test", EXCLUDED: "excluded"}
    sizes = {}
    for file in sorted((dataset.path / "splits").glob("*.npy")):
        counts = np.bincount(dataset.roles(file.stem), minlength=len(names))
        sizes[file.stem] = {name: int(counts[role]) for role, name in names.items()}
    return sizes


def text_problems(dataset: PreparedDataset) -> list[Problem]:
    """Items without a text, with the same text as another item, or with a very long one."""
    ids, texts = dataset.raw_item_ids, dataset.texts
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    times_seen = Counter(texts)
    same = [row for row, text in enumerate(texts) if text.strip() and times_seen[text] > 1]
    long = [row for row, text in enumerate(texts) if len(text) >= LONG_TEXT]
    return [
        Problem("items without a text", len(empty), len(texts), _named(ids, empty)),
        Problem("items whose text another item has too", len(same), len(texts), _named(ids, same)),
        Problem(f"items with a text of {LONG_TEXT:,} characters and more", len(long), len(texts), _named(ids, long)),
    ]


def log_problems(dataset: PreparedDataset, ties: TiedNeighbours | None) -> list[Problem]:
    """Repeats, ties, cold items, short users, and training interactions that happened after test targets.

    `ties`: of the dataset; None = it has no timestamps.
    """
    roles = dataset.roles("leave-one-out")
    lengths = dataset.sequences.lengths
    repeats = at_once = 0
    in_log = np.zeros(dataset.num_items, dtype=bool)
    in_training = np.zeros(dataset.num_items, dtype=bool)
    for users, items, of_items in _blocks(dataset, roles):
        same_user = users[1:] == users[:-1]
        at_once += int(np.count_nonzero(same_user & (items[1:] == items[:-1])))
        repeats += len(items) - len(np.unique(users * dataset.num_items + items))
        in_log[items] = True
        in_training[items[of_items == TRAIN]] = True
    cold = np.flatnonzero(in_log & ~in_training).tolist()
    silent = np.flatnonzero(~in_log).tolist()
    ids, total = dataset.raw_item_ids, dataset.num_interactions
    short = int(np.count_nonzero(lengths < 3))
    problems = [
        Problem("interactions with an item the user had already", repeats, total),
        Problem("interactions with the same item as the one before", at_once, total),
        Problem("users with fewer than 3 interactions (they only train)", short, dataset.num_users),
        Problem("items without interactions", len(silent), dataset.num_items, _named(ids, silent)),
        Problem("cold items: only in valid or test of leave-one-out", len(cold), dataset.num_items, _named(ids, cold)),
    ]
    if ties is not None:
        what = "interactions at the same time as the user's one before (order is a tie)"
        problems.append(Problem(what, ties.tied, total))
        problems += _leaked_future(dataset, roles)
    return problems


def _leaked_future(dataset: PreparedDataset, roles: npt.NDArray[np.int8]) -> list[Problem]:
    """Under leave-one-out every user has an own test moment: others' training interactions may lie after it."""
    found = Leakage.of(dataset, roles)
    if found is None or dataset.timestamps is None:
        return []
    of_training, of_targets = dataset.timestamps[roles == TRAIN], dataset.timestamps[roles == TEST]
    later = int(np.count_nonzero(of_training > np.median(of_targets)))
    what = "training interactions later than a leave-one-out test target, mean over the targets"
    return [
        Problem("leave-one-out test targets older than the last training interaction", found.exposed, found.targets),
        Problem("training interactions later than the median leave-one-out test target", later, found.training),
        Problem(what, round(found.share * found.training), found.training),
    ]


def _blocks(
    dataset: PreparedDataset, roles: npt.NDArray[np.int8]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int8]]]:
    """Users, items and roles of a block of whole users."""
    offsets = np.asarray(dataset.sequences.offsets)
    for first, last in user_blocks(offsets):
        where = slice(int(offsets[first]), int(offsets[last]))
        users = np.repeat(np.arange(first, last), np.diff(offsets[first : last + 1]))
        items = np.asarray(dataset.sequences.values[where]).astype(np.int64)
        yield users, items, np.asarray(roles[where])


def _named(ids: list[str], rows: list[int]) -> tuple[str, ...]:
    return tuple(ids[row] for row in rows[:EXAMPLES])
