"""Items by ID: their row in the catalogue."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch

from linguarec.batching.batches import ItemBatch
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.source import Asked, IntArray, ItemSource, Vectors

if TYPE_CHECKING:
    import pyarrow as pa


class IdSource(ItemSource):
    """The rows of a catalogue of `num_items` items. A new item has no row, so it cannot be encoded."""

    def __init__(self, folder: Path, num_items: int) -> None:
        self.folder = folder
        self.num_items = num_items

    @classmethod
    def choose(cls, dataset: PreparedDataset, asked: Asked, start: "IdSource | None" = None) -> "IdSource":
        """All items of the folder."""
        if start is not None:
            start.refuse(dataset)
        return cls(dataset.path, dataset.num_items)

    @classmethod
    def choose_for_all(
        cls, datasets: list[PreparedDataset], asked: Asked, start: "IdSource | None" = None
    ) -> list["IdSource"]:
        """All items of each folder."""
        return [cls.choose(dataset, asked, start) for dataset in datasets]

    @classmethod
    def load(cls, folder: Path, shape: CatalogueShape, raw_ids: Sequence[str] | None = None) -> "IdSource":
        """The rows of the model's catalogue."""
        return cls(folder, shape.num_items)

    def matching(self, dataset: PreparedDataset, asked: Asked, encode: bool = True) -> "IdSource":
        """Refused: the items of another folder have no rows in this catalogue."""
        self.refuse(dataset)

    def new(self, items: "pa.Table", vectors: Vectors | None = None) -> "IdSource":
        """Refused: new items have no rows."""
        raise SettingsError(
            ["this model knows items by ID only and cannot read new ones; train a model that reads text"]
        )

    def refuse(self, dataset: PreparedDataset) -> NoReturn:
        """Raise the error that says why the items of another folder cannot be read."""
        raise SettingsError(
            [
                f"{self.folder} holds a model that knows items by ID; the items of {dataset.path} have no ID there. Take a "
                "model that reads text alone"
            ]
        )

    def without_items(self) -> "IdSource":
        """No rows."""
        return type(self)(self.folder, 0)

    @property
    def shape(self) -> CatalogueShape:
        """The number of rows."""
        return CatalogueShape(self.num_items)

    @property
    def names(self) -> dict[str, str | None]:
        """No names: nothing stored is read."""
        return {}

    def part(self, rows: IntArray, draws: IntArray | None = None) -> ItemBatch:
        """The rows themselves."""
        return ItemBatch(torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int64))

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    def __len__(self) -> int:
        return self.num_items
