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
from linguarec.data.dataset import PreparedDataset
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


def coded_catalogue(dataset: PreparedDataset, book: CodeBook) -> ItemBatch:
    """All items of `dataset` with the codes of `book`, made from the vectors of the book's encoder.

    Raises:
        DataFormatError: the folder has no vectors of that encoder, or one holds NaN or an infinity.
        StaleFeaturesError: its vectors are of other weights or another width than those that the book was fitted on.
    """
    vectors = dataset.features(book.encoder)
    found = dataset.feature_info(book.encoder).weights_sha256
    if None not in (found, book.encoder_fingerprint) and found != book.encoder_fingerprint:
        raise StaleFeaturesError(
            f"The vectors {book.encoder} of {dataset.path} are of weights {str(found)[:12]}, the code book was fitted on those "
            f"of {str(book.encoder_fingerprint)[:12]}; encode the texts with the encoder of the code book: "
            f"`linguarec encode {dataset.path} --encoder ENCODER --name {book.encoder} --overwrite`."
        )
    with _naming(dataset.feature_path(book.encoder)):
        codes = book.encode(vectors)
    return replace(catalogue_batch(dataset, None, None), codes=torch.from_numpy(codes.astype(np.int64)))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Begin the errors of what was read from `file` with its name."""
    try:
        yield
    except (DataFormatError, StaleFeaturesError) as error:
        raise type(error)(f"{file}: {error}") from error
