"""Writes prepared folders as files for the released UniSRec and VQ-Rec code: benchmark files, or a pre-training folder."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import TEST, TRAIN, VALID, Roles, items_of_training_pairs
from linguarec.errors import DataFormatError

HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
TEXT_HEADER = "item_id:token\ttext:token_seq\n"


def write_benchmark(dataset: PreparedDataset, folder: Path, name: str, window: int) -> dict[str, int]:
    """Write `<name>.{train,valid,test}.inter`, `.text`, `.item2index`, `.user2index` into `folder`; returns counts.

    Histories keep their last `window` items. As in the release, a user's training prefixes are ordered longest first. Texts
    are in the order of the raw ids (in the release: of the metadata file, which the folder does not keep).
    Users with fewer than three items have only training rows.

    Raises:
        DataFormatError: a raw id holds a tab or a line break, which these files cannot represent.
    """
    _write_index(folder / f"{name}.item2index", dataset.raw_item_ids, "item")
    _write_index(folder / f"{name}.user2index", dataset.raw_user_ids, "user")
    mended = _write_texts(folder / f"{name}.text", dataset)
    sequences, roles = dataset.sequences, dataset.roles("leave-one-out")
    counts = {}
    with (
        (folder / f"{name}.train.inter").open("w", encoding="utf-8", newline="\n") as train,
        (folder / f"{name}.valid.inter").open("w", encoding="utf-8", newline="\n") as valid,
        (folder / f"{name}.test.inter").open("w", encoding="utf-8", newline="\n") as test,
    ):
        files = {TRAIN: train, VALID: valid, TEST: test}
        counts = dict.fromkeys(files, 0)
        for file in files.values():
            file.write(HEADER)
        for role, line in _rows(sequences, roles, window, range(len(sequences))):
            files[role].write(line)
            counts[role] += 1
    return {
        "train_rows": counts[TRAIN],
        "valid_rows": counts[VALID],
        "test_rows": counts[TEST],
        "users_without_test_row": dataset.num_users - counts[TEST],
        "texts_with_tabs_or_line_breaks": mended,
    }


def write_vectors(vectors: npt.NDArray[Any], file: Path) -> None:
    """Write item vectors [N, D] as raw float32 without a header, row = item index."""
    file.write_bytes(np.ascontiguousarray(vectors, dtype=np.float32).data)  # `tofile` can lose its end on a full disk


def write_pretraining(datasets: Sequence[PreparedDataset], folder: Path, name: str, window: int) -> dict[str, int]:
    """Write `<name>.pt_datasets`, `.train.inter`, `.filtered_id` and, unless all folders hold only training
    interactions, `.valid.inter` and `.test.inter` (see `linguarec.data.readers.pretraining`); returns counts.

    A domain has the name of its folder. Its items are numbered by their rows, its users by their rows or, if the folder
    was made from such files, by the numbers in those files.

    Raises:
        DataFormatError: two folders have the same name, or a name has a comma, which separates the domains.
    """
    names = [dataset.name for dataset in datasets]
    if len(set(names)) != len(names) or any("," in one for one in names):
        raise DataFormatError(
            f"The folders are named {', '.join(names)}; domains are named like their folders, so each name is needed once and "
            "without a comma. Rename the folders."
        )
    (folder / f"{name}.pt_datasets").write_text(",".join(names) + "\n", encoding="utf-8", newline="\n")
    suffixes = {TRAIN: "train", VALID: "valid", TEST: "test"}
    counts = dict.fromkeys(suffixes, 0)
    roles = [dataset.roles("leave-one-out") for dataset in datasets]
    written = [TRAIN] if all(np.all(of_one == TRAIN) for of_one in roles) else list(suffixes)
    with ExitStack() as stack:
        files = {}
        for role in written:
            file = folder / f"{name}.{suffixes[role]}.inter"
            files[role] = stack.enter_context(file.open("w", encoding="utf-8", newline="\n"))
            files[role].write(HEADER)
        filtered = stack.enter_context((folder / f"{name}.filtered_id").open("w", encoding="utf-8", newline="\n"))
        for number, (dataset, of_one) in enumerate(zip(datasets, roles, strict=True)):
            for role, line in _rows(dataset.sequences, of_one, window, _user_numbers(dataset), f"{number}-"):
                files[role].write(line)
                counts[role] += 1
            items = items_of_training_pairs(dataset.sequences, of_one)
            filtered.writelines(f"{number}-{item}\n" for item in items.tolist())
    return {
        "domains": len(datasets),
        "train_rows": counts[TRAIN],
        "valid_rows": counts[VALID],
        "test_rows": counts[TEST],
        "texts_left_out": sum(bool(text.strip()) for dataset in datasets for text in dataset.texts),
    }


def _user_numbers(dataset: PreparedDataset) -> Sequence[int]:
    if "domain" in dataset.manifest.arguments:
        return [int(raw_id.rpartition("-")[2]) for raw_id in dataset.raw_user_ids]
    return range(dataset.num_users)


def _rows(
    sequences: Ragged, roles: Roles, window: int, users: Sequence[int], prefix: str = ""
) -> Iterator[tuple[int, str]]:
    """Role and line of each (user, history, target), in the order of the release; `prefix` is put before every id."""
    for user in range(len(sequences)):
        start, stop = sequences.offsets[user], sequences.offsets[user + 1]
        items = [f"{prefix}{item}" for item in np.asarray(sequences.values[start:stop]).tolist()]
        of_user = np.asarray(roles[start:stop])
        train = np.flatnonzero(of_user == TRAIN)[::-1]
        for position in [*train.tolist(), *np.flatnonzero(of_user != TRAIN).tolist()]:
            if position > 0:
                history = " ".join(items[max(0, position - window) : position])
                yield int(of_user[position]), f"{prefix}{users[user]}\t{history}\t{items[position]}\n"


def _write_index(file: Path, raw_ids: list[str], kind: str) -> None:
    bad = [raw_id for raw_id in raw_ids if "\t" in raw_id or "\n" in raw_id or "\r" in raw_id]
    if bad:
        raise DataFormatError(
            f"{len(bad):,} {kind} ids hold a tab or a line break (the first is {bad[0]!r}); benchmark files "
            f"separate by them and cannot carry such ids. Replace them in the source files and prepare again."
        )
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{raw_id}\t{row}\n" for row, raw_id in enumerate(raw_ids))


def _write_texts(file: Path, dataset: PreparedDataset) -> int:
    """Write texts by raw id; tabs and line breaks in them become spaces. Returns the number of changed texts."""
    mended = 0
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        lines.write(TEXT_HEADER)
        for raw_id, text in sorted(zip(dataset.raw_item_ids, dataset.texts, strict=True)):
            one_line = text.replace("\t", " ").replace("\n", " ").replace("\r", " ")
            mended += one_line != text
            lines.write(f"{raw_id}\t{one_line}\n")
    return mended
