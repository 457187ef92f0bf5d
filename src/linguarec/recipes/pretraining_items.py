"""Which item vectors or codes a pre-training reads of its folders, what made them, and all items of a folder by them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.catalogue import (
    catalogue_batch,
    coded_catalogue,
    encoder_of_book,
    load_codes,
    mapped_catalogue,
    vectors_of_book,
)
from linguarec.codes.codebook import CodeBook
from linguarec.data.dataset import FeatureInfo, PreparedDataset
from linguarec.data.same_encoder import check_same_encoder
from linguarec.errors import SettingsError, StaleFeaturesError
from linguarec.evaluation.evaluate import ITEMS_PER_CHUNK, encode_chunks, encode_items
from linguarec.files import write_json
from linguarec.hub.pretrained import BOOK_FILE, ENCODER_FILE
from linguarec.models import MODELS
from linguarec.models.shape import CatalogueShape
from linguarec.recipes.matching import candidate_codes, codes_of_own_book, fitting_vectors, stored_codes, vectors_of
from linguarec.recipes.runs import choose
from linguarec.recipes.starting import Start


@dataclass(frozen=True)
class ItemNames:
    """What is read of the folders: `features`, vectors of one name, or `codes`, whose name may be another in each; None = not
    read."""

    features: str | None
    codes: list[str | None]

    @classmethod
    def of(
        cls,
        model: str,
        start: Start | None,
        datasets: list[PreparedDataset],
        features: str | None,
        codes: str | None,
    ) -> "ItemNames":
        """The names asked for, the only ones that all folders have, or those that fit the start.

        Codes for a start are of its own book; items that have none of it are coded now.

        Raises:
            SettingsError: nothing of that name is there, or several without one asked for.
            StaleFeaturesError, CheckpointMismatchError: they do not fit the start; both sides are named.
        """
        if MODELS[model].reads != "codes":
            if start is not None:
                features = fitting_vectors(start, datasets[0], features)
            return cls(_choose_for_all("vectors", features, datasets), [None] * len(datasets))
        if start is not None:
            return cls(None, [codes_of_own_book(start, dataset, features, codes) for dataset in datasets])
        return cls(None, [_choose_for_all("codes", codes, datasets)] * len(datasets))

    @property
    def recorded(self) -> dict[str, Any]:
        """As settings.json records them."""
        return {"features": self.features, "codes": self.codes if len(set(self.codes)) > 1 else self.codes[0]}


@dataclass(frozen=True)
class ItemOrigin:
    """What the item vectors or codes of all domains are made by: one encoder, and one code book for models on codes."""

    features: str | None
    encoder: FeatureInfo | None
    book: CodeBook | None
    shape: CatalogueShape

    @classmethod
    def of(
        cls,
        datasets: list[PreparedDataset],
        valid: PreparedDataset | None,
        names: ItemNames,
    ) -> "ItemOrigin":
        """The common origin of the folders' vectors or codes; of `valid` only the vectors that the model itself reads.

        Raises:
            StaleFeaturesError: two folders differ in their encoder or code book.
        """
        if names.features is not None:
            read = [*datasets, *([valid] if valid else [])]
            encoder = check_same_encoder([(dataset, names.features) for dataset in read])
            return cls(names.features, encoder, None, CatalogueShape(0, encoder.width))
        codes = [str(name) for name in names.codes]
        books = [load_codes(dataset, name).book for dataset, name in zip(datasets, codes, strict=True)]
        for dataset, name, book in zip(datasets, codes, books, strict=True):
            if book.fingerprint != books[0].fingerprint:
                raise StaleFeaturesError(
                    f"The codes {name} of {dataset.path} are of {book}, those of {datasets[0].path} of {books[0]} with other "
                    f"contents: code books fitted apart. Fit one for all folders: "
                    f"`linguarec quantize {' '.join(str(each.path) for each in datasets)} --features {book.encoder} "
                    f"--subvectors {book.subvectors} --centroids {book.num_centroids} --name {name} --overwrite`."
                )
        book = books[0]
        vectors = [(dataset, found) for dataset in datasets if (found := vectors_of_book(dataset, book)) is not None]
        common = check_same_encoder(vectors) if vectors else None
        return cls(None, common, book, CatalogueShape(0, code_books=book.subvectors, centroids=book.num_centroids))

    def save(self, folder: Path) -> None:
        """Beside the model: `encoder.json` and `code_book.npz`, where known."""
        if self.encoder is not None:
            write_json(folder / ENCODER_FILE, asdict(replace(self.encoder, texts_fingerprint=None)))
        if self.book is not None:
            self.book.save(folder / BOOK_FILE)

    def coded(self, dataset: PreparedDataset, codes: str | None, features: str | None) -> ItemBatch:
        """All items of a folder by their codes.

        Args:
            dataset: the folder.
            codes: name of the codes that the training reads of it; None = it reads none, so that stored codes of the training's
                book are taken, or the vectors of the book's encoder are coded with it.
            features: name of those vectors, or None.

        Raises:
            StaleFeaturesError, SettingsError: there are neither such codes nor such vectors; or as of `vectors_of`.
        """
        assert self.book is not None
        codes = codes or stored_codes(self.book, dataset)
        if codes is not None:
            return catalogue_batch(dataset, None, codes)
        encoder = self.encoder or encoder_of_book(self.book)
        vectors = vectors_of(encoder, "The code book of this training was fitted on", dataset, features)
        return coded_catalogue(dataset, self.book, vectors)


def reading(
    origin: ItemOrigin, dataset: PreparedDataset, codes: str | None, features: str | None
) -> Callable[[nn.Module, torch.device], tuple[Tensor, Tensor]]:
    """What gives a model's inputs and keys of all items of a folder: from vectors that stay on disk, or from codes."""
    if origin.features is None:
        items = origin.coded(dataset, codes, features)
        return lambda model, device: encode_items(model, items, device)
    vectors = dataset.features(origin.features)
    return lambda model, device: encode_chunks(model, mapped_catalogue(vectors, ITEMS_PER_CHUNK), device)


def _choose_for_all(kind: str, asked: str | None, datasets: list[PreparedDataset]) -> str:
    """The name that all folders have vectors or codes of."""
    names = [dataset.feature_names if kind == "vectors" else candidate_codes(dataset, asked) for dataset in datasets]
    command = "encode" if kind == "vectors" else "quantize"
    for dataset, stored in zip(datasets, names, strict=True):
        if not stored or (asked is not None and asked not in stored):
            choose(kind, asked, stored, dataset, command)  # says what is missing
    common = [name for name in names[0] if all(name in stored for stored in names)]
    if not common:
        listed = "; ".join(
            f"{dataset.path} has {', '.join(stored)}" for dataset, stored in zip(datasets, names, strict=True)
        )
        raise SettingsError([f"no item {kind} are of one name in all folders: {listed}"])
    return choose(kind, asked, common, datasets[0], command)
