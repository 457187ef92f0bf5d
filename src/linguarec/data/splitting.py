"""Writes the splits of a prepared folder in blocks of users, so that memory does not grow with the log."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linguarec.data.dataset import PATIENCE, PreparedDataset
from linguarec.data.npy import write_npy
from linguarec.data.ragged import Ragged
from linguarec.data.splits import (
    HELD_OUT_ITEMS,
    Roles,
    TimeCuts,
    choose_held_out,
    held_out_roles,
    leave_one_out,
    training_only,
)
from linguarec.errors import DataFormatError, SettingsError
from linguarec.files import clear_up, updating_folder, writing_file
from linguarec.regular import check_regular

LEAST_TRAINING = 0.25  # of the interactions, in the oldest of several windows of time
BLOCK = 1 << 21  # interactions per block


@dataclass(frozen=True)
class SplitSettings:
    """Fractions of the splits: `valid_share`, `test_share` of the interactions (temporal), `held_out_share` of the items.

    `training_only`: the last two items of every user were already removed from the log, so that leave-one-out has only
    training interactions.
    """

    valid_share: float = 0.1
    test_share: float = 0.1
    held_out_share: float = 0.1
    seed: int = 0
    training_only: bool = False


def write_splits(folder: Path, num_items: int, settings: SplitSettings) -> None:
    """Write `splits/leave-one-out.npy`, `splits/held-out-items.npy` and, if times are known, `splits/temporal.npy`."""
    for name in ("items", "offsets", "timestamps"):
        check_regular(folder / "sequences" / f"{name}.npy", DataFormatError)
    (folder / "splits").mkdir(exist_ok=True)
    offsets = np.load(folder / "sequences/offsets.npy")
    total = int(offsets[-1])
    held = choose_held_out(num_items, settings.held_out_share, settings.seed)

    def items_of_users() -> Iterator[Ragged]:
        values = np.load(folder / "sequences/items.npy", mmap_mode="r")
        for first, last in user_blocks(offsets):
            start, stop = offsets[first], offsets[last]
            yield Ragged(np.array(values[start:stop]), offsets[first : last + 1] - start)

    last_two = training_only if settings.training_only else leave_one_out
    _write_roles(folder, "leave-one-out", total, (last_two(block.offsets) for block in items_of_users()))
    _write_roles(folder, HELD_OUT_ITEMS, total, (held_out_roles(block, held) for block in items_of_users()))
    if (folder / "sequences/timestamps.npy").exists():
        times = np.load(folder / "sequences/timestamps.npy", mmap_mode="r")
        cuts = temporal_cuts(times, settings.valid_share, settings.test_share)
        _write_roles(folder, "temporal", total, (TimeCuts(*cuts).roles(piece) for piece in _pieces(times)))


def add_temporal_split(dataset: PreparedDataset, cuts: TimeCuts) -> str:
    """Store the split that these cuts make in a prepared folder, beside its own, unless it is there; returns its name.

    One that was made of other interactions, before the folder was replaced, is made again.

    Raises:
        DataFormatError: the folder has no times.
        OutputError: it is not writable.
    """
    times, file = times_of(dataset), dataset.path / "splits" / f"{cuts.split}.npy"
    if not _holds(file, len(times), (cuts.roles(piece) for piece in _pieces(times))):
        with updating_folder(file.parent, PATIENCE) as folder, writing_file(folder / file.name) as temporary:
            write_npy(temporary, np.int8, len(times), (cuts.roles(piece) for piece in _pieces(times)))
    elif any(dataset.path.glob(".splits*")):  # of a process that was killed after it had stored the split
        clear_up(file.parent, PATIENCE)
    return cuts.split


def _holds(file: Path, length: int, pieces: Iterator[Roles]) -> bool:
    """Whether a file holds these roles."""
    try:
        stored = np.load(file, mmap_mode="r")
    except (OSError, ValueError):
        return False
    if stored.shape != (length,) or stored.dtype != np.int8:
        return False
    start = 0
    for piece in pieces:
        if not np.array_equal(stored[start : start + len(piece)], piece):
            return False
        start += len(piece)
    return True


def window_cuts(dataset: PreparedDataset, windows: int, settings: SplitSettings) -> list[TimeCuts]:
    """Temporal splits whose test parts are successive windows of time up to the last interaction, the oldest first.

    Each has `test_share` of the interactions as test, `valid_share` before them as valid, and everything earlier as training;
    what is later than its window is excluded. The newest one has the cuts of the split `temporal`.

    Raises:
        DataFormatError: the folder has no times, or too few different ones.
        SettingsError: there are so many windows that the oldest one would leave less than a quarter for training.
    """
    times, valid, test = times_of(dataset), settings.valid_share, settings.test_share
    most = int((1 - LEAST_TRAINING - valid) / test + 1e-9)
    if not 1 <= windows <= most:
        raise SettingsError(
            [
                f"--windows is {windows}; it must be between 1 and {most}: each takes {test:.0%} of the interactions, "
                f"{valid:.0%} are valid, and the oldest window must leave {LEAST_TRAINING:.0%} for training"
            ]
        )
    found: list[TimeCuts] = []
    for number in range(1, windows + 1):
        cuts = TimeCuts(*temporal_cuts(times, valid, number * test), found[-1].test if found else None)
        if cuts.valid >= cuts.test or (cuts.excluded is not None and cuts.test >= cuts.excluded):
            raise DataFormatError(
                f"{dataset.path}: its interactions have too few different times for {windows} windows; ask for fewer with "
                "--windows."
            )
        found.append(cuts)
    return found[::-1]


def times_of(dataset: PreparedDataset) -> npt.NDArray[np.int64]:
    """The time of each interaction of a folder.

    Raises:
        DataFormatError: it knows only their order.
    """
    if dataset.timestamps is None:
        raise DataFormatError(
            f"{dataset.path} has no times of its interactions, only their order, so it cannot be split by time; prepare it "
            "from a log with times, or take the split leave-one-out."
        )
    return dataset.timestamps


def user_blocks(offsets: npt.NDArray[np.int64], size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Ranges of users (first, last + 1) that hold about `size` interactions each; users are not split."""
    first, users = 0, len(offsets) - 1
    while first < users:
        last = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        last = min(max(last, first + 1), users)
        yield first, last
        first = last


def temporal_cuts(times: npt.NDArray[np.int64], valid_share: float, test_share: float) -> tuple[int, int]:
    """First timestamp of valid and first timestamp of test, as in `splits.global_temporal`.

    Both are order statistics, found by bisection over the range of times, so nothing is sorted or copied.
    """
    if len(times) == 0:
        return 0, 0
    ranks = [int(np.ceil((len(times) - 1) * (1 - share))) for share in (valid_share + test_share, test_share)]
    lowest = min(int(piece.min()) for piece in _pieces(times))
    highest = max(int(piece.max()) for piece in _pieces(times))
    first, second = (_order_statistic(times, rank, lowest, highest) for rank in ranks)
    return first, second


def _order_statistic(times: npt.NDArray[np.int64], rank: int, lowest: int, highest: int) -> int:
    """The value at position `rank` (from 0) of the sorted times."""
    while lowest < highest:
        middle = (lowest + highest) // 2
        if sum(int(np.count_nonzero(piece <= middle)) for piece in _pieces(times)) > rank:
            highest = middle
        else:
            lowest = middle + 1
    return lowest


def _pieces(values: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(values), BLOCK):
        yield values[start : start + BLOCK]


def _write_roles(folder: Path, name: str, total: int, pieces: Iterator[Roles]) -> None:
    write_npy(folder / "splits" / f"{name}.npy", np.int8, total, pieces)
