"""The prepared dataset folder: one catalogue and one log, opened as memory maps.

Layout: `manifest.json`, `items.parquet`, `users.parquet`, `sequences/`, `features/`, `codes/`, `tokens/`,
`splits/`. Item and user ids are rows of *this* folder, dense from 0. Padding ids never reach the disk.
"""

import glob
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from linguarec.data.attribute_names import OWN_COLUMNS
from linguarec.data.contents import check_distinct, check_roles, check_rows
from linguarec.data.features import FeatureInfo, read_feature_info, write_vectors
from linguarec.data.ragged import Ragged
from linguarec.data.splits import Roles
from linguarec.data.vectors import check_finite
from linguarec.errors import DataFormatError, StaleFeaturesError
from linguarec.files import absence, updating_folder
from linguarec.seals import check_seal, digest_of
from linguarec.stored import columns_problem, read_array, read_json, read_record, read_table

FORMAT_VERSION = 1
MANIFEST_FILE, ITEMS_FILE = "manifest.json", "items.parquet"
AGAIN = "Prepare the folder again."
PATIENCE = 60.0  # seconds that a command waits for another one that stores vectors in the same folder


@dataclass(frozen=True)
class Manifest:
    """Description of a prepared folder and of how it was made.

    `counts` holds at least `users`, `items`, `interactions`; `attributes` names the attribute columns of `items.parquet`
    in order; `report` counts every row that was dropped or repaired, by reason; `fingerprint` is the SHA-256 of the content;
    `numbers` names the attributes whose values are all numbers (they are stored as they were written, too); `pieces`
    describes what was appended later, each with its own report.
    """

    recipe: str
    arguments: dict[str, Any]
    counts: dict[str, int]
    attributes: list[str]
    fingerprint: str
    text_rules: str = "default"
    report: dict[str, int] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    numbers: list[str] = field(default_factory=list)
    pieces: list[dict[str, Any]] = field(default_factory=list)


def prepared_instead(folder: Path) -> str | None:
    """What to say where a run is expected and a prepared folder is named; None = it is none."""
    if not (folder / MANIFEST_FILE).is_file() or not (folder / ITEMS_FILE).is_file():
        return None
    return f"{folder} is a prepared folder, not a run; train one with `linguarec finetune MODEL {folder} -o RUN`."


class PreparedDataset:
    """An opened prepared folder. Opening is cheap: only the manifest is read at once.

    Raises:
        DataFormatError: the folder or one of its parts is missing or does not fit the manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._finite: set[Path] = set()  # files whose vectors were checked to be finite

    @classmethod
    def open(cls, path: str | Path) -> "PreparedDataset":
        """Open the folder `path`, checking that its parts fit together."""
        path = Path(path)
        manifest_file = path / MANIFEST_FILE
        if not manifest_file.is_file():
            why, make = absence(path), f"Make one with `linguarec prepare ... -o {path}`."
            if path.exists():  # something else, which must not be prepared over
                why = f"it has no {MANIFEST_FILE}" if path.is_dir() else "it is a file"
                make = "Name a folder that was made with `linguarec prepare ... -o FOLDER`."
            raise DataFormatError(f"{path} is not a prepared dataset folder: {why}. {make}")
        found = read_json(manifest_file, DataFormatError, AGAIN).get("format_version")
        if found != FORMAT_VERSION:
            raise DataFormatError(
                f"{manifest_file}: format_version is {found!r}, this linguarec reads {FORMAT_VERSION}; "
                "prepare the folder again."
            )
        dataset = cls(path, read_record(Manifest, manifest_file, "a prepared dataset folder", DataFormatError, AGAIN))
        strange = [name for name in dataset.manifest.attributes if name.lower() in OWN_COLUMNS]
        if strange:
            raise DataFormatError(
                f"{path}: the attribute {strange[0]!r} has the name of a column of our own; prepare the folder again."
            )
        unknown = [name for name in dataset.manifest.numbers if name not in dataset.manifest.attributes]
        if unknown:
            raise DataFormatError(f"{manifest_file}: {unknown[0]!r} is among its numbers, but is no attribute. {AGAIN}")
        check_seal(path, DataFormatError, AGAIN)
        dataset._check()
        return dataset

    def _check(self) -> None:
        counts = self.manifest.counts
        found = {"users": len(self._array("sequences/offsets.npy", np.int64)) - 1}
        found["interactions"] = len(self._array("sequences/items.npy", np.int32))
        found["items"] = len(self.items(["item"]))
        for name, number in found.items():
            if counts.get(name) != number:
                raise DataFormatError(
                    f"{self.path}: the manifest says {counts.get(name)} {name}, the files hold {number}; "
                    "prepare the folder again."
                )
        kinds = {name: self._columns[name] for name in ("raw_id", *self.manifest.attributes, "text")}
        if wrong := columns_problem(pq.read_schema(self.path / ITEMS_FILE), kinds):
            raise DataFormatError(f"{self.path / ITEMS_FILE} {wrong}. {AGAIN}")

    def __repr__(self) -> str:
        counts = f"{self.num_users:,} users, {self.num_items:,} items, {self.num_interactions:,} interactions"
        return f"PreparedDataset({self.path}: {counts})"

    @property
    def name(self) -> str:
        """The folder's name, used as the domain's name."""
        return self.path.resolve().name

    @property
    def num_items(self) -> int:
        """Number of catalogue items, with or without interactions."""
        return self.manifest.counts["items"]

    @property
    def num_users(self) -> int:
        """Number of users."""
        return self.manifest.counts["users"]

    @property
    def num_interactions(self) -> int:
        """Number of interactions over all users."""
        return self.manifest.counts["interactions"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content (ids, texts, sequences), hexadecimal."""
        return self.manifest.fingerprint

    @cached_property
    def sequences(self) -> Ragged:
        """Item rows of every user, oldest first, memory-mapped.

        Raises:
            DataFormatError: the files do not hold sequences of items of the folder.
        """
        items = self._array("sequences/items.npy", np.int32)
        offsets = self._array("sequences/offsets.npy", np.int64)
        check_rows(items, self.num_items, self.path / "sequences" / "items.npy", AGAIN)
        try:
            return Ragged(items, offsets)
        except ValueError as error:
            raise DataFormatError(f"{self.path}/sequences/offsets.npy: {error}. {AGAIN}") from error

    @cached_property
    def timestamps(self) -> npt.NDArray[np.int64] | None:
        """Seconds since 1970 of each interaction, or None if times are not known."""
        file = "sequences/timestamps.npy"
        return self._of_interactions(file, np.int64) if (self.path / file).exists() else None

    @property
    def last_time(self) -> int | None:
        """Time of the last interaction in seconds since 1970, or None if times are not known."""
        times = self.timestamps
        return None if times is None or len(times) == 0 else int(times.max())

    def items(self, columns: Sequence[str] | None = None) -> pa.Table:
        """`items.parquet` in row order: `item`, `raw_id`, the attribute columns, `text`."""
        kinds = {name: self._columns[name] for name in (self._columns if columns is None else columns)}
        filled = [name for name in ("item", "raw_id", "text") if name in kinds]
        return read_table(self.path / ITEMS_FILE, DataFormatError, AGAIN, kinds, filled)

    @property
    def _columns(self) -> dict[str, pa.DataType]:
        """The columns of `items.parquet` that are read, with their types."""
        return {"item": pa.int32()} | {name: pa.string() for name in ("raw_id", *self.manifest.attributes, "text")}

    @cached_property
    def raw_item_ids(self) -> list[str]:
        """Raw id of each item row.

        Raises:
            DataFormatError: two rows have the same id.
        """
        ids: list[str] = self.items(["raw_id"])["raw_id"].to_pylist()
        check_distinct(ids, self.path / ITEMS_FILE, AGAIN)
        return ids

    @cached_property
    def item_row(self) -> dict[str, int]:
        """Row of each raw item id."""
        return {raw_id: row for row, raw_id in enumerate(self.raw_item_ids)}

    @cached_property
    def raw_user_ids(self) -> list[str]:
        """Raw id of each user row."""
        file = self.path / "users.parquet"
        users = read_table(file, DataFormatError, AGAIN, {"raw_id": pa.string()}, ["raw_id"])
        if len(users) != self.num_users:
            raise DataFormatError(f"{file} has {len(users)} rows, the folder has {self.num_users} users. {AGAIN}")
        ids: list[str] = users["raw_id"].to_pylist()
        return ids

    @cached_property
    def texts(self) -> list[str]:
        """The cleaned text of each item row ("" = no text)."""
        texts: list[str] = self.items(["text"])["text"].to_pylist()
        return texts

    @cached_property
    def texts_fingerprint(self) -> str:
        """SHA-256 of all item texts in row order, hexadecimal."""
        return fingerprint_of_texts(self.texts)

    # -- splits ---------------------------------------------------------------------------------------------------------

    def roles(self, split: str = "leave-one-out") -> Roles:
        """Role of each interaction (see `linguarec.data.splits`) in the named split."""
        file = self.path / "splits" / f"{split}.npy"
        if not file.exists():
            known = ", ".join(sorted(f.stem for f in (self.path / "splits").glob("*.npy"))) or "none"
            untimed = split.startswith("temporal") and self.timestamps is None
            why = " The times of its interactions are not known, only their order." if untimed else ""
            raise DataFormatError(f"{self.path} has no split {split!r}; it has: {known}.{why}")
        roles = self._of_interactions(f"splits/{split}.npy", np.int8)
        check_roles(roles, file, AGAIN)
        return roles

    # -- vectors --------------------------------------------------------------------------------------------------------

    @property
    def feature_names(self) -> list[str]:
        """Names of the stored item vectors."""
        return sorted(f.stem for f in (self.path / "features").glob("*.json"))

    def feature_info(self, name: str) -> FeatureInfo:
        """Origin of the vectors `name`."""
        file = self.path / "features" / f"{name}.json"
        if not file.exists():
            known = ", ".join(self.feature_names)
            mend = f"Name one of these, or make others with `linguarec encode {self.path} --encoder ENCODER`."
            if not known:
                mend = f"Make some with `linguarec encode {self.path}`."
            raise DataFormatError(f"{self.path} has no item vectors {name!r}; it has: {known or 'none'}. {mend}")
        return read_feature_info(
            file, DataFormatError, f"Encode again: `linguarec encode {self.path} --encoder {name} --overwrite`."
        )

    def features(self, name: str) -> npt.NDArray[Any]:
        """Item vectors [N, D] float32 (or float16), memory-mapped; all finite.

        Raises:
            StaleFeaturesError: the vectors were made from other texts, or their shape does not fit the catalogue.
            DataFormatError: a vector holds NaN or an infinity.
        """
        vectors = self._open_features(name)
        self._check_finite(name, self.feature_path(name), vectors)
        return vectors

    def load_features(self, name: str) -> npt.NDArray[np.float32]:
        """As `features`, but loaded into memory as float32 in one pass."""
        vectors = self._open_features(name)
        loaded = np.empty(vectors.shape, np.float32)
        self._check_finite(name, self.feature_path(name), vectors, loaded)
        return loaded

    def feature_path(self, name: str) -> Path:
        """File of the vectors `name`; beside it are its description (.json) and its word-drop draws (.drop<k>.npy)."""
        return self.path / "features" / f"{name}.npy"

    def word_drop_draws(self, name: str) -> list[npt.NDArray[Any]]:
        """The stored vectors [N, D] of texts with words left out, one array per draw, memory-mapped; all finite.

        Raises:
            StaleFeaturesError: the vectors `name` or a draw do not belong to the catalogue.
            DataFormatError: a vector of a draw holds NaN or an infinity.
        """
        shape = self._open_features(name).shape
        draws: list[npt.NDArray[Any]] = []
        while (file := self.feature_path(name).with_suffix(f".drop{len(draws)}.npy")).exists():
            draw = read_array(file, DataFormatError, self._encode_again(name), mapped=True, dtype=np.floating)
            self._check_shape(name, file, draw, shape)
            self._check_finite(name, file, draw)
            draws.append(draw)
        return draws

    def write_features(
        self, name: str, vectors: npt.NDArray[Any], info: FeatureInfo, draws: Sequence[Path] = ()
    ) -> None:
        """Store item vectors under `name` with their description, all at once.

        `draws`: files of the vectors of word-drop draws, which are moved; those that the name had before are removed.
        """
        self._finite.discard(self.feature_path(name))
        file = self.feature_path(name)
        with updating_folder(file.parent, PATIENCE) as folder:
            for old in folder.glob(f"{glob.escape(name)}.drop*.npy"):
                old.unlink()
            write_vectors(folder, name, vectors, info)
            for number, draw in enumerate(draws):
                draw.replace(folder / f"{name}.drop{number}.npy")

    def vectors_so_far(self, name: str) -> npt.NDArray[Any] | None:
        """The vectors `name` [n, D] if they are those of the first n items, and others were appended since; None if
        they are not.

        Raises:
            StaleFeaturesError: the file is damaged.
        """
        info, file = self.feature_info(name), self.feature_path(name)
        vectors = read_array(file, DataFormatError, self._encode_again(name), mapped=True, dtype=np.floating)
        number = len(vectors) if vectors.ndim == 2 else 0
        if not 0 < number < self.num_items or info.texts_fingerprint != fingerprint_of_texts(self.texts[:number]):
            return None
        self._check_shape(name, file, vectors, (number, info.width))
        self._check_digest(name, file, info)
        return vectors

    def _open_features(self, name: str) -> npt.NDArray[Any]:
        """The vectors `name`, memory-mapped, checked against the catalogue's texts and shape."""
        info, file = self.feature_info(name), self.feature_path(name)
        if info.texts_fingerprint is not None and info.texts_fingerprint != self.texts_fingerprint:
            if (known := self.vectors_so_far(name)) is not None:
                raise StaleFeaturesError(
                    f"{file} lacks {self.num_items - len(known):,} items that were appended to the folder since. Add them: "
                    f"`linguarec encode {self.path} --encoder {info.encoder}{self._name_flag(name)}`."
                )
            raise StaleFeaturesError(
                f"{file} was made from other item texts than the folder has now. {self._encode_again(name)}"
            )
        vectors = read_array(file, DataFormatError, self._encode_again(name), mapped=True, dtype=np.floating)
        self._check_shape(name, file, vectors, (self.num_items, info.width))
        self._check_digest(name, file, info)
        return vectors

    def _check_digest(self, name: str, file: Path, info: FeatureInfo) -> None:
        if info.vectors_digest not in (None, digest_of(file)):
            raise StaleFeaturesError(
                f"{file} is not the file that {file.with_suffix('.json').name} describes: it was written by another encoding, "
                f"or is damaged. {self._encode_again(name)}"
            )

    def _check_shape(self, name: str, file: Path, vectors: npt.NDArray[Any], expected: tuple[int, ...]) -> None:
        if vectors.shape != expected:
            lacking = expected[0] - len(vectors) if vectors.shape[1:] == expected[1:] else 0
            what = f": {lacking:,} items of the folder have no vector" if lacking > 0 else ""
            raise StaleFeaturesError(
                f"{file} has shape {vectors.shape}, expected {expected}{what}. {self._encode_again(name)}"
            )

    def _check_finite(
        self, name: str, file: Path, vectors: npt.NDArray[Any], into: npt.NDArray[np.float32] | None = None
    ) -> None:
        """Refuse vectors that are not finite, and fill `into`; files that this object has checked are not checked again."""
        if into is None and file in self._finite:
            return
        check_finite(vectors, file, lambda row: f"item {self.raw_item_ids[row]!r}", self._encode_again(name), into)
        self._finite.add(file)

    def _encode_again(self, name: str) -> str:
        """A sentence that says how to make the vectors `name` again."""
        info = self.feature_info(name)
        if info.weights_sha256 is None:
            return (
                "They were imported: mend the file that they came from and prepare the folder again, or make others by "
                f"`linguarec encode {self.path}`."
            )
        return (
            f"Encode again: `linguarec encode {self.path} --encoder {info.encoder}{self._name_flag(name)} --overwrite`."
        )

    def _name_flag(self, name: str) -> str:
        return f" --name {name}" if name != Path(self.feature_info(name).encoder.rstrip("/")).name else ""

    # -- codes ----------------------------------------------------------------------------------------------------------

    @property
    def code_names(self) -> list[str]:
        """Names of the stored item codes."""
        return sorted(f.stem for f in (self.path / "codes").glob("*.npz"))

    def codes_path(self, name: str) -> Path:
        """File of the codes `name` (read and written by `linguarec.codes`)."""
        return self.path / "codes" / f"{name}.npz"

    # -- tokens ---------------------------------------------------------------------------------------------------------

    @property
    def token_names(self) -> list[str]:
        """Names of the stored item tokens."""
        return sorted(file.parent.name for file in (self.path / "tokens").glob("*/tokens.json"))

    def tokens_path(self, name: str) -> Path:
        """Folder of the tokens `name` (read and written by `linguarec.text.token_store`)."""
        return self.path / "tokens" / name

    def _array(self, relative: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return read_array(self.path / relative, DataFormatError, AGAIN, mapped=True, dtype=dtype, shape=(None,))

    def _of_interactions(self, relative: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array with a value for each interaction."""
        array = self._array(relative, dtype)
        if array.shape != (self.num_interactions,):
            raise DataFormatError(
                f"{self.path / relative} has shape {array.shape}, the folder has {self.num_interactions} interactions. {AGAIN}"
            )
        return array


def fingerprint_of_texts(texts: Sequence[str]) -> str:
    """SHA-256 over the texts, each ended by a zero byte."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8"))
        digest.update(b"\0")
    return digest.hexdigest()
