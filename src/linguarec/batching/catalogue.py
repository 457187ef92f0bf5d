"""The whole catalogue of a prepared folder as one `ItemBatch`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import ItemBatch
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.data.dataset import UNKNOWN, FeatureInfo, PreparedDataset
from linguarec.data.same_encoder import differing_vectors
from linguarec.errors import DataFormatError, StaleFeaturesError


def catalogue_batch(dataset: PreparedDataset, features: str | None, codes: str | None) -> ItemBatch:
    """All items of `dataset` in row order, with the named vectors and codes.

    Raises:
        DataFormatError: the folder has no vectors or codes of that name, or a vector holds NaN or an infinity.
        StaleFeaturesError: they do not belong to the catalogue's texts.
    """
    return ItemBatch(
        rows=torch.arange(dataset.num_items),
        domain=torch.zeros(dataset.num_items, dtype=torch.int64),
        features=None if features is None else torch.from_numpy(dataset.load_features(features)),
        codes=None if codes is None else torch.from_numpy(load_codes(dataset, codes).codes.astype(np.int64)),
    )


def mapped_catalogue(vectors: npt.NDArray[Any], size: int) -> Iterator[ItemBatch]:
    """The items whose vectors [N, F] may be a memory map, `size` at a time in row order: no more are in memory at once."""
    for start in range(0, len(vectors), size):
        read = np.array(vectors[start : start + size], dtype=np.float32)
        yield ItemBatch(
            torch.arange(start, start + len(read)), torch.zeros(len(read), dtype=torch.int64), torch.from_numpy(read)
        )


def load_codes(dataset: PreparedDataset, name: str) -> ItemCodes:
    """The codes `name` of a folder with their code book, checked against its catalogue."""
    path: Path = dataset.codes_path(name)
    codes = ItemCodes.load(path)
    with _naming(path):
        codes.check(dataset.num_items, dataset.texts_fingerprint)
    return codes


def encoder_of_book(book: CodeBook) -> FeatureInfo:
    """What a code book knows of the encoder of its vectors: width, name or the name of the vectors, and perhaps the hash."""
    return FeatureInfo(book.encoder, book.width, UNKNOWN, book.encoder_fingerprint, None, UNKNOWN)


def vectors_of_book(dataset: PreparedDataset, book: CodeBook) -> str | None:
    """Name of the folder's vectors that are of the book's encoder, those of its name first; None = none is known to be."""
    encoder = encoder_of_book(book)
    if encoder.encoder == UNKNOWN and encoder.weights_sha256 is None:
        return None
    fitting = [name for name, differing in differing_vectors(dataset, encoder).items() if not differing]
    return book.encoder if book.encoder in fitting else next(iter(fitting), None)


def coded_catalogue(dataset: PreparedDataset, book: CodeBook, vectors: str) -> ItemBatch:
    """All items of `dataset` with the codes of `book`, made from the vectors of the name `vectors`.

    Raises:
        DataFormatError: a vector holds NaN or an infinity.
        StaleFeaturesError: the vectors do not belong to the catalogue's texts, or are of another width than the book's.
    """
    values = dataset.features(vectors)
    with _naming(dataset.feature_path(vectors)):
        codes = book.encode(values)
    return replace(catalogue_batch(dataset, None, None), codes=torch.from_numpy(codes.astype(np.int64)))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Begin the errors of what was read from `file` with its name."""
    try:
        yield
    except (DataFormatError, StaleFeaturesError) as error:
        raise type(error)(f"{file}: {error}") from error
