"""Items by their text embeddings: the stored vectors of one encoder; new items are encoded with the same encoder."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import ItemBatch
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import UNKNOWN, FeatureInfo, read_feature_info, write_feature_info
from linguarec.data.same_encoder import check_same_encoder, differing_vectors, encode_again
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError, StaleFeaturesError
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.choosing import choose, choose_for_all
from linguarec.sources.source import Asked, IntArray, ItemSource, Vectors
from linguarec.stored import AGAIN

if TYPE_CHECKING:
    import pyarrow as pa

    from linguarec.text.encoders import TextEncoder

ENCODER_FILE = "encoder.json"
log = logging.getLogger(__name__)


class SharedEncoder:
    """The text encoder of a source and of the sources made from it, loaded when the first of them reads a text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: TextEncoder | None = None

    def get(self, info: FeatureInfo, folder: Path) -> "TextEncoder":
        """The encoder that `info` describes, searched in and beside `folder`; threads that ask at once wait for one load."""
        from linguarec.text.encoders import TextEncoder

        with self._lock:
            if self._loaded is None:
                self._loaded = TextEncoder.load(info, near=[folder])
            return self._loaded


class EmbeddingSource(ItemSource):
    """Text vectors of items and the known facts about their encoder.

    `info`: the encoder. `vectors` [N, F], may be a memory map. `draws`: word-drop vectors [N, F] of the same items.
    `name`: name of the stored vectors, None = not stored. `reader`: the subject of error messages, such as "FOLDER was trained
    on"; None = the model in `folder`. `shared`: holds the encoder of new texts.
    """

    flags: ClassVar = {
        "features": "name of the stored text embeddings, for models that read them; not needed if only one fits"
    }

    def __init__(
        self,
        folder: Path,
        info: FeatureInfo,
        vectors: npt.NDArray[Any],
        draws: Sequence[npt.NDArray[Any]] = (),
        name: str | None = None,
        reader: str | None = None,
        shared: SharedEncoder | None = None,
    ) -> None:
        self.folder = folder
        self.info = info
        self.vectors = vectors
        self.draws = list(draws)
        self.name = name
        self.reader = reader
        self.shared = SharedEncoder() if shared is None else shared

    # -- opening and choosing -------------------------------------------------------------------------------------------

    @classmethod
    def stored(cls, dataset: PreparedDataset, name: str) -> "EmbeddingSource":
        """The stored vectors `name` of a folder, memory-mapped.

        Raises:
            DataFormatError: there are no vectors of that name, or a vector is not finite.
            StaleFeaturesError: they do not belong to the catalogue's texts.
        """
        return cls(dataset.path, dataset.feature_info(name), dataset.features(name), (), name)

    @classmethod
    def choose(
        cls, dataset: PreparedDataset, asked: Asked, start: "EmbeddingSource | None" = None
    ) -> "EmbeddingSource":
        """The requested stored vectors, or the only ones; with `start` those of its encoder."""
        if start is not None:
            return cls.stored(dataset, start.fitting(dataset, asked.get("features")))
        return cls.stored(dataset, choose("vectors", asked.get("features"), dataset.feature_names, dataset, "encode"))

    @classmethod
    def choose_for_all(
        cls, datasets: list[PreparedDataset], asked: Asked, start: "EmbeddingSource | None" = None
    ) -> list["EmbeddingSource"]:
        """Vectors of one name and one encoder, with the word-drop draws stored beside them."""
        name = asked.get("features")
        if start is not None:
            name = start.fitting(datasets[0], name)
        stored = [dataset.feature_names for dataset in datasets]
        name = choose_for_all("vectors", name, datasets, stored, "encode")
        common = check_same_encoder([(dataset, name) for dataset in datasets])
        return [
            cls(
                dataset.path, common, dataset.features(name), dataset.word_drop_draws(name), name,
                reader=f"With {dataset.path} this training reads",
            )
            for dataset in datasets
        ]  # fmt: skip

    @classmethod
    def load(cls, folder: Path, shape: CatalogueShape, raw_ids: Sequence[str] | None = None) -> "EmbeddingSource":
        """Load the known facts about the encoder. A run keeps the keys of its items, not their vectors."""
        width = shape.needs_features()
        info = read_encoder(folder) or FeatureInfo(UNKNOWN, width, UNKNOWN, None, None, UNKNOWN)
        return cls(folder, info, _no_vectors(width))

    def matching(self, dataset: PreparedDataset, asked: Asked, encode: bool = True) -> "EmbeddingSource":
        """The folder's stored vectors of this encoder; else its texts, encoded now."""
        name = asked.get("features")
        try:
            fitting = self.fitting(dataset, name)
        except StaleFeaturesError:
            if not encode or name is not None or self.info.weights_sha256 is None:
                raise
            return type(self)(dataset.path, self.info, self.encode_texts(dataset))
        return type(self).stored(dataset, fitting)

    def encode_texts(self, dataset: PreparedDataset) -> npt.NDArray[np.float32]:
        """Encode the folder's texts now: vectors [N, F].

        Raises:
            DataFormatError: the texts were cleaned by other rules than the texts that the encoder was used with.
        """
        if dataset.manifest.text_rules != self.info.text_rules:
            raise DataFormatError(
                f"{dataset.path}: its texts were cleaned by the rules {dataset.manifest.text_rules!r}, those of "
                f"{self.folder} by {self.info.text_rules!r}; prepare it again with --text-rules {self.info.text_rules}."
            )
        return np.asarray(self._text_encoder.encode(dataset.texts), dtype=np.float32)

    def fitting(self, dataset: PreparedDataset, asked: str | None) -> str:
        """Name of the folder's vectors of this encoder: the requested ones, or the only ones.

        Raises:
            StaleFeaturesError, SettingsError: as in `vectors_of`.
        """
        return vectors_of(self.info, self.reader or f"{self.folder} was trained on", dataset, asked)

    # -- the items ------------------------------------------------------------------------------------------------------

    def new(self, items: "pa.Table", vectors: Vectors | None = None) -> "EmbeddingSource":
        """The `vectors` of new items, or their texts, encoded now."""
        checked = check_vectors(self.vectors_of_new(items, vectors), len(items), self.info.width)
        return type(self)(self.folder, self.info, checked, shared=self.shared)

    def new_of(self, dataset: PreparedDataset, rows: IntArray) -> "EmbeddingSource":
        """The folder's stored vectors of this encoder; else the texts, encoded now."""
        fitting = [name for name, found in differing_vectors(dataset, self.info).items() if not found]
        vectors = None if not fitting else np.asarray(dataset.features(fitting[0])[rows], dtype=np.float32)
        return self.new(dataset.items().take(rows), vectors)

    def vectors_of_new(self, items: "pa.Table", vectors: Vectors | None) -> npt.NDArray[np.float32]:
        """Vectors [n, F] of new items: `vectors` after a check, or their texts, encoded now.

        Raises:
            SettingsError: the encoder is not known.
        """
        if vectors is not None:
            return np.asarray(vectors, dtype=np.float32)
        if self.info.weights_sha256 is None:
            origin = "" if self.info.encoder == UNKNOWN else f" ({self.info.encoder})"
            raise SettingsError([f"the run's text vectors{origin} were imported, not encoded here; pass `vectors`"])
        return np.asarray(self._text_encoder.encode(items["text"].to_pylist()), dtype=np.float32)

    def new_vectors(self, items: "pa.Table") -> npt.NDArray[np.float32]:
        """Vectors [n, F] of the texts of new items, encoded now."""
        return check_vectors(self.vectors_of_new(items, None), len(items), self.info.width)

    @property
    def encoder_id(self) -> str | None:
        """The known facts about the encoder."""
        return self.info.described

    @property
    def _text_encoder(self) -> "TextEncoder":
        return self.shared.get(self.info, self.folder)

    @property
    def shape(self) -> CatalogueShape:
        """Number of items, width of the vectors."""
        return CatalogueShape(len(self), self.info.width)

    @property
    def names(self) -> dict[str, str | None]:
        """The name of the vectors."""
        return {"features": self.name}

    @property
    def num_draws(self) -> int:
        """Stored word-drop draws."""
        return len(self.draws)

    @property
    def text_rules(self) -> str | None:
        """Text rules of the texts that the encoder was used with."""
        return None if self.info.text_rules == UNKNOWN else self.info.text_rules

    def part(self, rows: IntArray, draws: IntArray | None = None) -> ItemBatch:
        """Rows and vectors [N, F] float32."""
        if draws is None or not draws.any():
            found = np.asarray(self.vectors[rows], dtype=np.float32)
        else:
            found = np.empty((len(rows), self.vectors.shape[1]), dtype=np.float32)
            for draw, of_draw in enumerate([self.vectors, *self.draws]):
                wanted = np.flatnonzero(draws == draw)
                found[wanted] = of_draw[rows[wanted]]
        return ItemBatch(
            torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int64), features=torch.from_numpy(found)
        )

    def without_items(self) -> "EmbeddingSource":
        """The known facts about the encoder, without vectors."""
        return type(self)(self.folder, self.info, _no_vectors(self.info.width), shared=self.shared)

    def kept_by_run(self) -> "EmbeddingSource":
        """The encoder without vectors: a run keeps the items' keys and history inputs instead."""
        return self.without_items()

    def save(self, folder: Path) -> None:
        """Write the known facts about the encoder."""
        if self.info != FeatureInfo(UNKNOWN, self.info.width, UNKNOWN, None, None, UNKNOWN):
            write_encoder(folder, self.info)

    def __len__(self) -> int:
        return len(self.vectors)


def vectors_of(encoder: FeatureInfo, reader: str, dataset: PreparedDataset, asked: str | None) -> str:
    """Name of the folder's vectors of an encoder: the requested ones, or the only ones of this encoder.

    Args:
        encoder: the known facts about it.
        reader: the subject of error messages: "FOLDER was trained on".
        dataset: the folder.
        asked: name of vectors, which must be of this encoder; None = search all vectors.

    Raises:
        StaleFeaturesError: no vectors are of this encoder, or the requested ones are of another encoder or width.
        SettingsError: several vectors match, or there are none of that name.
    """
    if asked is not None:
        choose("vectors", asked, dataset.feature_names, dataset, "encode")
    differing = differing_vectors(dataset, encoder)
    looked_at = {name: found for name, found in differing.items() if asked in (None, name)}
    fitting = [name for name, found in looked_at.items() if not found]
    if len(fitting) > 1:
        raise SettingsError(
            [f"{dataset.path} has several item vectors that fit: {', '.join(fitting)}; choose one with --features"]
        )
    if not fitting:
        found = "; ".join(f"vectors {name} ({', '.join(differences)})" for name, differences in looked_at.items())
        raise StaleFeaturesError(
            f"{reader} vectors of {encoder.described}, and {dataset.path} has {found or 'no vectors'}. "
            f"{encode_again(dataset, encoder)}"
        )
    if encoder.encoder == UNKNOWN and encoder.weights_sha256 is None:
        log.warning("%s vectors of an unknown encoder; %s of %s have their width", reader, fitting[0], dataset.path)
    return fitting[0]


def check_vectors(vectors: npt.NDArray[np.float32], items: int, width: int | None) -> npt.NDArray[np.float32]:
    """Check the vectors of new items: one for each item, of the right width (None = any), all finite.

    Raises:
        DataFormatError: a check fails.
    """
    if len(vectors) != items:
        raise DataFormatError(f"There are {items} new items and {len(vectors)} vectors; give one for each item.")
    if width is not None and vectors.shape[1:] != (width,):
        raise DataFormatError(
            f"The vectors of the new items have the shape {vectors.shape}, this model reads vectors of width {width}; "
            "take those of the encoder that it was trained with."
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataFormatError(
            f"The vectors of {len(bad)} of the {len(vectors)} new items hold NaN or an infinity, first that of row {bad[0]}."
        )
    return vectors


def read_encoder(folder: Path) -> FeatureInfo | None:
    """The encoder of the vectors that a run or model folder records; None if it records none."""
    file = folder / ENCODER_FILE
    return read_feature_info(file, CheckpointMismatchError, AGAIN) if file.exists() else None


def write_encoder(folder: Path, info: FeatureInfo) -> None:
    """Write the known facts about the encoder into a run or model folder, without a fingerprint of texts."""
    write_feature_info(folder / ENCODER_FILE, replace(info, texts_fingerprint=None, vectors_digest=None))


def _no_vectors(width: int) -> npt.NDArray[np.float32]:
    return np.zeros((0, width), dtype=np.float32)
