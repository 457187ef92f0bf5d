"""The items of a blend: for each part, as that part reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import ItemBatch
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.weights import PARTS_FOLDER
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.ids import IdSource
from linguarec.sources.source import Asked, IntArray, ItemSource, Vectors
from linguarec.stored import AGAIN

if TYPE_CHECKING:
    import pyarrow as pa


def part_folders(folder: Path, count: int) -> list[Path]:
    """The folders of the parts of a blend, in order.

    Raises:
        CheckpointMismatchError: one is missing.
    """
    found = [folder / PARTS_FOLDER / str(number) for number in range(count)]
    for each in found:
        if not each.is_dir():
            raise CheckpointMismatchError(f"{each} is missing: it holds a part of the blend in {folder}. {AGAIN}")
    return found


class BlendSource(ItemSource):
    """`sources`: the items of each part, equally many; `num_items`: how many."""

    def __init__(self, folder: Path, sources: Sequence[ItemSource], num_items: int) -> None:
        self.folder = folder
        self.sources = tuple(sources)
        self.num_items = num_items

    @classmethod
    def choose(cls, dataset: PreparedDataset, asked: Asked, start: "BlendSource | None" = None) -> "BlendSource":
        """Refused: a blend is made of trained runs."""
        _refuse()

    @classmethod
    def choose_for_all(
        cls, datasets: list[PreparedDataset], asked: Asked, start: "BlendSource | None" = None
    ) -> list["BlendSource"]:
        """Refused: a blend is made of trained runs."""
        _refuse()

    @classmethod
    def load(cls, folder: Path, shape: CatalogueShape, raw_ids: Sequence[str] | None = None) -> "BlendSource":
        """The sources of the parts, with the items of the run's catalogue."""
        from linguarec.families.opening import read_description

        numbers = sorted(int(each.name) for each in (folder / PARTS_FOLDER).glob("*") if each.name.isdigit())
        sources = []
        for part in part_folders(folder, len(numbers)):
            description = read_description(part)
            sources.append(description.family.source.load(part, description.shape, raw_ids))
        return cls(folder, sources, 0 if raw_ids is None else len(raw_ids))

    def matching(self, dataset: PreparedDataset, asked: Asked, encode: bool = True) -> "BlendSource":
        """Refused: the parts were fitted together on one catalogue."""
        raise SettingsError(
            [
                f"{self.folder} holds a blend, whose parts were fitted on one catalogue; evaluate one of its parts on "
                f"{dataset.path}"
            ]
        )

    def new(self, items: "pa.Table", vectors: Vectors | None = None) -> "BlendSource":
        """New items for each part; a part that knows items by ID alone is told of items that it does not know.

        Raises:
            SettingsError: no part reads the texts of items.
        """
        if all(isinstance(source, IdSource) for source in self.sources):
            raise SettingsError(["no part of this blend can read new items; add one that reads text"])
        count = len(items)
        return BlendSource(
            self.folder,
            [
                IdSource(source.folder, count) if isinstance(source, IdSource) else source.new(items, vectors)
                for source in self.sources
            ],
            count,
        )

    def new_vectors(self, items: "pa.Table") -> npt.NDArray[np.float32]:
        """Vectors [n, F] for all parts that read vectors, which have one encoder."""
        return next(source for source in self.sources if source.encoder_id is not None).new_vectors(items)

    @property
    def encoder_id(self) -> str | None:
        """The encoder of the parts that read vectors, if it is one."""
        known = {source.encoder_id for source in self.sources} - {None}
        return known.pop() if len(known) == 1 else None

    def without_items(self) -> "BlendSource":
        """The sources of the parts without items."""
        return BlendSource(self.folder, [source.without_items() for source in self.sources], 0)

    def kept_by_run(self) -> "BlendSource":
        """What a run keeps of each part's."""
        return BlendSource(self.folder, [source.kept_by_run() for source in self.sources], self.num_items)

    def joined(self, other: "BlendSource") -> "BlendSource":
        """The items of both."""
        both = [own.joined(its) for own, its in zip(self.sources, other.sources, strict=True)]
        return BlendSource(self.folder, both, self.num_items + other.num_items)

    @property
    def shape(self) -> CatalogueShape:
        """The number of items."""
        return CatalogueShape(self.num_items)

    @property
    def names(self) -> dict[str, str | None]:
        """No names: the parts record theirs."""
        return {}

    @property
    def attributes(self) -> list[str]:
        """What the parts need of new items."""
        return list(dict.fromkeys(name for source in self.sources for name in source.attributes))

    @property
    def text_rules(self) -> str | None:
        """Those of the parts."""
        return next((rules for source in self.sources if (rules := source.text_rules)), None)

    def part(self, rows: IntArray, draws: IntArray | None = None) -> ItemBatch:
        """The rows themselves: what is read of them differs from part to part."""
        return ItemBatch(torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int64))

    def save(self, folder: Path) -> None:
        """Write the source of each part into its folder."""
        for number, source in enumerate(self.sources):
            place = folder / PARTS_FOLDER / str(number)
            place.mkdir(parents=True, exist_ok=True)
            source.save(place)

    def __len__(self) -> int:
        return self.num_items


class BlendInputs:
    """`parts`: what the histories of each part are made of, of the same items."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def select(self, rows: "np.ndarray[Any, np.dtype[np.int64]]") -> "BlendInputs":
        """The items at `rows`, in that order."""
        return BlendInputs([part.select(rows) for part in self.parts])

    def joined(self, other: "BlendInputs") -> "BlendInputs":
        """The items of both."""
        return BlendInputs([own.joined(its) for own, its in zip(self.parts, other.parts, strict=True)])

    def to(self, device: torch.device | str) -> "BlendInputs":
        """The same object: a blend works on the CPU."""
        return self

    def save(self, folder: Path, raw_ids: Sequence[str]) -> None:
        """Write those of each part into its folder."""
        for number, part in enumerate(self.parts):
            place = folder / PARTS_FOLDER / str(number)
            place.mkdir(parents=True, exist_ok=True)
            part.save(place, raw_ids)


def _refuse() -> NoReturn:
    raise SettingsError(["a blend is made of trained runs: linguarec blend RUN RUN ... -o BLEND"])
