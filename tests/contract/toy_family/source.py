"""What the toy reads of an item: how often each of some letters occurs in its text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from linguarec.batching.batches import ItemBatch
from linguarec.data.dataset import PreparedDataset
from linguarec.files import write_json
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.source import Asked, IntArray, ItemSource, Vectors
from linguarec.stored import read_json

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class LetterSource(ItemSource):
    """Counts [N, F] of `letters` in the texts of items."""

    flags: ClassVar = {"letters": "the letters that are counted"}

    def __init__(self, folder: Path, texts: Sequence[str], letters: str) -> None:
        self.folder = folder
        self.texts = list(texts)
        self.letters = letters
        counted = [[text.lower().count(letter) for letter in letters] for text in texts]
        self.counts = np.array(counted, dtype=np.float32).reshape(len(self.texts), len(letters))

    @classmethod
    def choose(cls, dataset: PreparedDataset, asked: Asked, start: "LetterSource | None" = None) -> "LetterSource":
        letters = asked.get("letters") or (ALPHABET if start is None else start.letters)
        return cls(dataset.path, dataset.texts, letters)

    @classmethod
    def choose_for_all(
        cls, datasets: list[PreparedDataset], asked: Asked, start: "LetterSource | None" = None
    ) -> list["LetterSource"]:
        return [cls.choose(dataset, asked, start) for dataset in datasets]

    @classmethod
    def load(cls, folder: Path, shape: CatalogueShape, raw_ids: Sequence[str] | None = None) -> "LetterSource":
        letters = read_json(folder / "letters.json", ValueError, "Train again.")["letters"]  # type: ignore[arg-type]
        return cls(folder, [], letters)

    def matching(self, dataset: PreparedDataset, asked: Asked, encode: bool = True) -> "LetterSource":
        return type(self)(dataset.path, dataset.texts, self.letters)

    def new(self, items: Any, vectors: Vectors | None = None) -> "LetterSource":
        return type(self)(self.folder, items["text"].to_pylist(), self.letters)

    def without_items(self) -> "LetterSource":
        return type(self)(self.folder, [], self.letters)

    def kept_by_run(self) -> "LetterSource":
        return self.without_items()

    @property
    def shape(self) -> CatalogueShape:
        return CatalogueShape(len(self), feature_width=len(self.letters))

    @property
    def names(self) -> dict[str, str | None]:
        return {"letters": self.letters}

    def part(self, rows: IntArray, draws: IntArray | None = None) -> ItemBatch:
        features = torch.from_numpy(self.counts[rows])
        return ItemBatch(torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int64), features=features)

    def save(self, folder: Path) -> None:
        write_json(folder / "letters.json", {"letters": self.letters})

    def __len__(self) -> int:
        return len(self.texts)
