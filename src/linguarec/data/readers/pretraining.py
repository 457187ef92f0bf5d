"""A pre-training folder as UniSRec and VQ-Rec released it: several domains mixed in one log, one set of vectors a domain.

No such folder was at hand. Its form is what the released code writes and reads: UniSRec's
`dataset/preprocessing/to_pretrain_atomic_files.py`, `process_amazon.py` and `data/dataset.py`, VQ-Rec's `multi_pq.py` and
`data/dataset.py`.

- `NAME.pt_datasets`: one line, the names of the domains separated by commas. A domain's number is its place, from 0.
- `NAME.train.inter`: the rows of benchmark files (user, history, target), users and items written
  `<domain number>-<number>`. Every prefix of a user's first n - 2 items is a row; the rows of a user stand together, the
  longest history first, each cut to its last 50 items, as in the benchmark files.
- `NAME.valid.inter`, `NAME.test.inter`: one row a user, for items n - 1 and n, in the order of the training file. The
  script writes both, but pre-training reads neither, so they may be absent; then the last two items of every user are
  unknown.
- `DOMAIN.feat1CLS`: vectors of all items of a domain, bare float32, row = the item's number; their width is not stored
  (`plm_size: 768`). `DOMAIN.feat2CLS`: the same of texts with words left out; VQ-Rec does without.
- `NAME.filtered_id`: every item of `NAME.train.inter`, by domain and number, one a line. Line k is row k of the faiss
  index `NAME.OPQ32,IVF1,PQ32x8.strict.index`. UniSRec does without both.

There are no texts, attributes or raw ids: raw ids become `<domain>-<number>`, which tells the items of two domains apart.
"""

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from linguarec.data.features import FeatureInfo
from linguarec.data.folder import Content, sequences_in_pieces
from linguarec.data.ragged import Ragged
from linguarec.data.readers.benchmark import numbered_lines, numbered_rows
from linguarec.data.splits import items_of_training_pairs, leave_one_out, training_only
from linguarec.data.vectors import check_finite
from linguarec.errors import DataFormatError, quoted

LONGEST_USER = 100  # characters
VECTORS, WORD_DROP = "feat1CLS", "feat2CLS"
HELD_OUT = ("valid", "test")
NUMBER = r"(0|[1-9][0-9]*)"
ID = re.compile(f"{NUMBER}-{NUMBER}")
ITEMS_OF_ONE_DOMAIN = re.compile(rf"{NUMBER}-{NUMBER}(?: \1-{NUMBER})*")
NUMBER_OF_ITEM = re.compile("-([0-9]+)")

Row = tuple[int, str, str, str]  # line, user, history, target


@dataclass
class Domain:
    """One domain: `vectors` [N, D] of its items, `dropped` [N, D] a word-drop draw of them, `users` by their numbers.

    `skipped_users`: those of the valid and the test file who have too few items for a training row; they are left out.
    """

    name: str
    vectors: npt.NDArray[np.float32]
    dropped: npt.NDArray[np.float32] | None
    users: list[int] = field(default_factory=list)
    sequences: Ragged = field(default_factory=lambda: Ragged.from_lists([]))
    skipped_users: int = 0


@dataclass(frozen=True)
class Pretraining:
    """The domains of a folder in their order.

    `complete`: the last two items of every user are there too (from the valid and the test file).
    """

    domains: list[Domain]
    complete: bool


def is_pretraining(folder: Path, name: str) -> bool:
    """Whether the training rows of that name are of several domains: a list of domains, or ids that begin with one."""
    if (folder / f"{name}.pt_datasets").exists():
        return True
    first = next((line for _, line in numbered_rows(folder / f"{name}.train.inter")), "")
    return ID.fullmatch(first.rpartition("\t")[2]) is not None


def read_pretraining(folder: Path, name: str, width: int) -> Pretraining:
    """Read the pre-training files `NAME.*` of `folder`; the item vectors are `width` wide.

    Raises:
        DataFormatError: a file is missing or malformed, an item has no vector or one that is not finite, or the rows of a
            user are not the prefixes of one sequence.
    """
    domains = [
        Domain(domain, *vectors)
        for domain, vectors in ((domain, _read_vectors(folder, domain, width)) for domain in _read_names(folder, name))
    ]
    without = [domain.name for domain in domains if domain.dropped is None]
    if 0 < len(without) < len(domains):
        raise DataFormatError(
            f"{folder / without[0]}.{WORD_DROP} is missing, but other domains have such a file; word drop needs one of every "
            f"domain. Add it, or remove the others to go without."
        )
    train = folder / f"{name}.train.inter"
    held_out = [file for file in (folder / f"{name}.{part}.inter" for part in HELD_OUT) if file.exists()]
    if len(held_out) == 1:
        raise DataFormatError(
            f"{folder} has {held_out[0].name} but not the other of {name}.valid.inter and {name}.test.inter; add it, or "
            "remove this one: pre-training needs neither."
        )
    _read_sequences(train, held_out, domains)
    for number, domain in enumerate(domains):
        if not domain.users:
            raise DataFormatError(
                f"{train} has no row of domain {number} ({domain.name}), which {name}.pt_datasets names; take it out there."
            )
    return Pretraining(domains, complete=len(held_out) == len(HELD_OUT))


def check_indexed_items(folder: Path, name: str, found: Pretraining) -> list[npt.NDArray[np.int32]]:
    """Items of each domain that occur in training rows, ascending, which `NAME.filtered_id` must list in this order.

    Raises:
        DataFormatError: the file is missing, or lists other items.
    """
    roles = leave_one_out if found.complete else training_only
    items = [items_of_training_pairs(domain.sequences, roles(domain.sequences.offsets)) for domain in found.domains]
    expected = (f"{number}-{item}" for number, of_domain in enumerate(items) for item in of_domain.tolist())
    file = folder / f"{name}.filtered_id"
    lines = (line.strip() for _, line in numbered_lines(file))
    for row, (line, item) in enumerate(zip_longest(lines, expected), start=1):
        if line != item:
            end = "the end of the file"
            raise DataFormatError(
                f"{file}, line {row}: found {end if line is None else quoted(line)}, expected {item or end}; it lists the "
                f"items of {name}.train.inter by domain and number, each once. Both must come from one release."
            )
    return items


def content(domain: Domain) -> Content:
    """The content of the prepared folder of one domain."""
    num_items, width = domain.vectors.shape
    raw_ids = pa.array([f"{domain.name}-{item}" for item in range(num_items)], pa.string())
    info = FeatureInfo(VECTORS, width, "cls", None, None, text_rules="released")
    return Content(
        items=[pa.table({"raw_id": raw_ids, "text": pa.array([""] * num_items, pa.string())})],
        attributes=[],
        users=[pa.array([f"{domain.name}-{user}" for user in domain.users], pa.string())],
        offsets=domain.sequences.offsets,
        interactions=sequences_in_pieces(domain.sequences),
        report={"items_without_text": num_items, "users_without_training_rows": domain.skipped_users},
        features={VECTORS: (domain.vectors, info)},
        word_drops={} if domain.dropped is None else {VECTORS: [domain.dropped]},
    )


def _read_names(folder: Path, name: str) -> list[str]:
    """The domains, which also become names of folders."""
    file = folder / f"{name}.pt_datasets"
    names = [part for _, line in numbered_lines(file) for part in line.strip().split(",")]
    bad = [part for part in names if not part or part.startswith(".") or "/" in part or "\\" in part]
    if bad or not names or len(set(names)) != len(names):
        raise DataFormatError(
            f"{file}: expected the names of the domains on one line, separated by commas, each once and fit for a folder's "
            f"name, found {quoted(','.join(names))}."
        )
    return names


def _read_vectors(
    folder: Path, domain: str, width: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Vectors and word-drop draw [N, D] of a domain, memory-mapped; no draw = None."""
    plain, dropped = folder / f"{domain}.{VECTORS}", folder / f"{domain}.{WORD_DROP}"
    if not plain.is_file():
        raise DataFormatError(
            f"{plain} is missing: the vectors of the items of {domain}, bare float32, {width} numbers an item. The released "
            "scripts link these files from each domain's own folder; copy them here."
        )
    size = plain.stat().st_size
    if size == 0 or size % (4 * width):
        raise DataFormatError(
            f"{plain}: {size:,} bytes are not whole rows of {width} float32 numbers ({4 * width:,} bytes an item); the file is "
            "cut short, or its vectors have another width: give it by --vector-width."
        )
    if dropped.is_file() and dropped.stat().st_size != size:
        raise DataFormatError(
            f"{dropped} has {dropped.stat().st_size:,} bytes, {plain.name} has {size:,}; both hold a vector of every item."
        )
    return _open(plain, width), _open(dropped, width) if dropped.is_file() else None


def _open(file: Path, width: int) -> npt.NDArray[np.float32]:
    vectors: npt.NDArray[np.float32] = np.memmap(file, dtype=np.float32, mode="r").reshape(-1, width)
    mend = "It must be bare float32; make it anew."
    check_finite(vectors, file, lambda row: f"item {row} of {file.name.rpartition('.')[0]}", mend)
    return vectors


def _read_sequences(train: Path, held_out: Sequence[Path], domains: list[Domain]) -> None:
    """Fill in the users and sequences of the domains."""
    values, lengths = [array("i") for _ in domains], [array("q", [0]) for _ in domains]
    targets = [_Targets(file) for file in held_out]
    for line, user, items in _whole_sequences(train):
        for of_part in targets:
            items = of_part.append(user, items)
        number, of_user = _numbers(train, line, user, items, domains)
        values[number].extend(of_user)
        lengths[number].append(len(of_user))
        domains[number].users.append(int(user.partition("-")[2]))
    for of_part in targets:
        of_part.end()
    for number, domain in enumerate(domains):
        domain.sequences = Ragged(np.array(values[number], np.int32), np.cumsum(np.array(lengths[number], np.int64)))
        domain.skipped_users = max((of_part.skipped[str(number)] for of_part in targets), default=0)


def _whole_sequences(file: Path) -> Iterator[tuple[int, str, str]]:
    """First line, user and items of each user of the training file, oldest first, separated by blanks.

    Going down the rows of a user, history and target are the history of the row before; where that was cut, they are it
    and the item before it.
    """
    cut: int | None = None
    seen: set[str] = set()
    for user, group in groupby(_rows(file), key=itemgetter(1)):
        rows = iter(group)
        first, _, history, target = next(rows)
        if user in seen:
            raise DataFormatError(
                f"{file}, line {first}: user {user} has rows further up; a user's rows stand together."
            )
        seen.add(user)
        items, earlier = f"{history} {target}", list[str]()
        for line, _, shorter, target in rows:
            joined = f"{shorter} {target}"
            if joined != history:
                item, length = joined.removesuffix(f" {history}"), history.count(" ") + 1
                if " " in item or length != (cut or length):
                    _check_ids(file, first, user, items)
                    _check_ids(file, line, user, joined)
                    raise DataFormatError(
                        f"{file}, line {line}: history and target of user {user} are not the history of the line before; "
                        "expected every prefix of one sequence, longest first, each cut to the same number of items."
                    )
                cut = length
                earlier.append(item)
            history = shorter
        if " " in history:
            raise DataFormatError(
                f"{file}, line {first}: the rows of user {user} end at a history of {history.count(' ') + 1} items; expected "
                "every prefix down to one item. The file is cut short or was filtered."
            )
        yield first, user, " ".join([*reversed(earlier), items])


def _rows(file: Path) -> Iterator[Row]:
    for line_number, line in numbered_rows(file):
        fields = line.split("\t")
        if len(fields) != 3 or not all(fields) or len(fields[0]) > LONGEST_USER:
            raise DataFormatError(
                f"{file}, line {line_number}: expected a user, the items of its history separated by blanks and an item, "
                f"separated by tabs, found {quoted(line)}."
            )
        yield line_number, fields[0], fields[1], fields[2]


def _numbers(file: Path, line: int, user: str, items: str, domains: list[Domain]) -> tuple[int, list[int]]:
    """The domain's number, and the numbers of the items, which must all be of it."""
    _check_ids(file, line, user, items)
    number = int(items.partition("-")[0])
    if user.partition("-")[0] != str(number) or number >= len(domains):
        raise DataFormatError(
            f"{file}, line {line}: user {user} has items of domain {number}; expected the user's own domain, one of the "
            f"{len(domains)} that .pt_datasets names, counted from 0: {', '.join(domain.name for domain in domains)}."
        )
    numbers = [int(item) for item in NUMBER_OF_ITEM.findall(items)]
    num_items = len(domains[number].vectors)
    if max(numbers) >= num_items:
        raise DataFormatError(
            f"{file}, line {line}: user {user} has item {number}-{max(numbers)}, but {domains[number].name}.{VECTORS} has "
            f"{num_items:,} rows of width {domains[number].vectors.shape[1]} (items 0 to {num_items - 1}); the file belongs to "
            "another release, or its vectors have another width: give it by --vector-width."
        )
    return number, numbers


def _check_ids(file: Path, line: int, user: str, items: str) -> None:
    if ITEMS_OF_ONE_DOMAIN.fullmatch(items) is None or ID.fullmatch(user) is None:
        ids = [user, *items.split(" ")]
        wrong = next((one for one in ids if ID.fullmatch(one) is None), None)
        if wrong is None:
            wrong = next(one for one in ids if one.partition("-")[0] != ids[1].partition("-")[0])
        raise DataFormatError(
            f"{file}, line {line}: found {quoted(wrong)} among the ids of user {user}; expected `<domain number>-<number>`, "
            "such as 0-17, all of one domain."
        )


class _Targets:
    """The rows of a valid or test file, one a user in the order of the training file, taken one after the other."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows = _rows(file)
        self.skipped: Counter[str] = Counter()  # users without training rows, by the number of their domain

    def append(self, user: str, items: str) -> str:
        """`items` and the target that follows them."""
        for line, found, history, target in self.rows:
            if found != user:
                self.skipped[found.partition("-")[0]] += 1
            elif f" {items}".endswith(f" {history}"):
                return f"{items} {target}"
            else:
                raise DataFormatError(
                    f"{self.file}, line {line}: the history of user {user} is not the end of the user's items in the files "
                    "before it (train, then valid); they must come from one release."
                )
        raise DataFormatError(
            f"{self.file} has no row of user {user}; expected one of every user, in the order of the training file."
        )

    def end(self) -> None:
        """Count the users after the last one of the training file."""
        self.skipped.update(user.partition("-")[0] for _, user, _, _ in self.rows)
