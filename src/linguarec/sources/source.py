"""The interface of item sources: chosen from a prepared folder, read in parts, saved with a run, loaded again.

source = EmbeddingSource.choose(dataset, {"features": "all-MiniLM-L6-v2"})     # items of a prepared folder
source.part(rows)                                                              # an ItemBatch of some of them
source.save(run)                                                               # all that encoding new items needs
own = EmbeddingSource.load(run, shape)                                         # the source of a trained model, no items
own.new(table)                                                                 # new items, encoded by their text
own.matching(other_dataset, {})                                                # items of another folder, encoded alike
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import ItemBatch
from linguarec.data.dataset import PreparedDataset
from linguarec.nn.shape import CatalogueShape

if TYPE_CHECKING:
    import pyarrow as pa

ITEMS_PER_CHUNK = 8_192

IntArray = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.floating[Any]]
Asked = Mapping[str, str | None]  # flag without dashes -> requested name, None = not requested


class ItemSource(ABC):
    """The items of one catalogue in the form that a model reads, and the way to bring new items into that form.

    `flags`: flag that selects stored vectors, codes or tokens by name -> its help. `folder`: the prepared folder of the items,
    or the run or model folder that the source was loaded from.
    """

    flags: ClassVar[Mapping[str, str]] = {}
    folder: Path

    @classmethod
    @abstractmethod
    def choose(cls, dataset: PreparedDataset, asked: Asked, start: Self | None = None) -> Self:
        """The items of a prepared folder, read from what it stores under the requested name, or from the only thing stored.

        Args:
            dataset: the folder.
            asked: names by flag.
            start: the source of the model that a training starts from; the items must be made in the same way.

        Raises:
            SettingsError: the folder stores nothing of that name, or several things and no name was requested.
            StaleFeaturesError, CheckpointMismatchError: the stored items do not fit the start; both sides are named.
        """

    @classmethod
    @abstractmethod
    def choose_for_all(cls, datasets: list[PreparedDataset], asked: Asked, start: Self | None = None) -> list[Self]:
        """As `choose`, for several folders that are read as one: all made in the same way.

        Raises:
            SettingsError, StaleFeaturesError, CheckpointMismatchError: as `choose`; or two folders differ.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, shape: CatalogueShape, raw_ids: Sequence[str] | None = None) -> Self:
        """Load the source that a run or model folder holds; facts that it does not record stay unknown.

        Args:
            folder: folder that `save` wrote into.
            shape: of the model in the folder.
            raw_ids: of the run's catalogue; its items are loaded if the folder holds them. None = no items.

        Raises:
            CheckpointMismatchError: the parts do not fit together.
        """

    @abstractmethod
    def matching(self, dataset: PreparedDataset, asked: Asked, encode: bool = True) -> Self:
        """The items of another prepared folder, made as those of this source: stored ones, or made now in memory.

        Args:
            dataset: the folder.
            asked: names by flag.
            encode: whether texts without stored vectors may be encoded now, which takes long.

        Raises:
            SettingsError, StaleFeaturesError, DataFormatError: this is not possible; both sides are named.
        """

    @abstractmethod
    def new(self, items: "pa.Table", vectors: Vectors | None = None) -> Self:
        """A source of new items, made as those of this source.

        Args:
            items: `raw_id`, the attribute columns, and `text`, cleaned.
            vectors: [n, F] text vectors, for sources that read them; None = the texts are encoded now.

        Raises:
            SettingsError: new items cannot be encoded, or their encoder or codebook is not on this machine.
            DataFormatError: the vectors do not fit, or an item has no text or attribute that is read.
        """

    def new_of(self, dataset: PreparedDataset, rows: IntArray) -> Self:
        """Some items of another prepared folder as new items: from what it stores, if that fits; else as `new`."""
        return self.new(dataset.items().take(rows))

    @property
    @abstractmethod
    def shape(self) -> CatalogueShape:
        """Sizes of this source that a model is built for."""

    @property
    @abstractmethod
    def names(self) -> dict[str, str | None]:
        """Names of what is read from the prepared folder, by flag, as settings record them."""

    @abstractmethod
    def part(self, rows: IntArray, draws: IntArray | None = None) -> ItemBatch:
        """The items at `rows` [N].

        `draws` [N]: the vector of each item to read: 0 = of the full text, k = of word-drop draw k - 1; None = all 0.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `load` needs, each file atomically."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def num_draws(self) -> int:
        """Number of stored word-drop vectors of each item."""
        return 0

    @property
    def attributes(self) -> list[str]:
        """Attributes that new items need, beside their text."""
        return []

    @property
    def encoder_id(self) -> str | None:
        """Identifies the text encoder whose vectors `new` takes; None = it takes none, or of several encoders."""
        return None

    def new_vectors(self, items: "pa.Table") -> npt.NDArray[np.float32]:
        """The vectors [n, F] that `new` takes, of the texts of new items, encoded now; for sources with an `encoder_id`.

        Raises:
            SettingsError: the encoder is not known, or not on this machine.
        """
        raise NotImplementedError

    @property
    def text_rules(self) -> str | None:
        """How the texts of new items are cleaned; None = not known."""
        return None

    def catalogue(self) -> ItemBatch:
        """All items."""
        return self.part(np.arange(len(self)))

    def chunks(self, new: bool = False) -> Iterator[ItemBatch]:
        """All items in row order, `ITEMS_PER_CHUNK` at a time, to bound memory; at least one chunk.

        `new`: the model was not trained on these items, so they have no rows in its tables: their rows are -1.
        """
        size = ITEMS_PER_CHUNK
        for start in range(0, max(1, len(self)), size):
            batch = self.part(np.arange(start, min(start + size, len(self))))
            yield replace(batch, rows=torch.full_like(batch.rows, -1)) if new else batch

    @abstractmethod
    def without_items(self) -> Self:
        """The same source without items: only how items are made."""

    def kept_by_run(self) -> Self:
        """The part of the source that a run keeps beside the items' keys; by default all."""
        return self

    def joined(self, other: Self) -> Self:
        """The items of both, these before those of `other`; for sources that `kept_by_run` returned."""
        return self

    def settings(self) -> dict[str, Any]:
        """Further facts for the settings of a run; a run whose facts differ cannot be resumed."""
        return {}
