"""Which vectors and codes of a prepared folder a training reads, and which of them fit a model that was trained elsewhere."""

import logging
from pathlib import Path

from linguarec.batching.catalogue import load_codes
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.data.dataset import FeatureInfo, PreparedDataset
from linguarec.errors import CheckpointMismatchError, SettingsError, StaleFeaturesError
from linguarec.hub.pretrained import BOOK_FILE
from linguarec.models import MODELS
from linguarec.recipes.runs import choose
from linguarec.recipes.starting import Start

log = logging.getLogger(__name__)

BORROWED = "book-"  # codes of another folder's book, made for --mode reuse or by zero-shot


def training_inputs(
    model: str,
    mode: str | None,
    dataset: PreparedDataset,
    start: Start | None,
    features: str | None,
    codes: str | None,
) -> tuple[str | None, str | None]:
    """Names of the vectors and of the codes that a training reads, each None where the model reads none.

    Args:
        model: name in `MODELS`.
        mode: of VQ-Rec's fine-tuning; "reuse" codes the items with the start's book, and stores their codes.
        dataset: whose items are read.
        start: what the training starts from, or None.
        features: the vectors asked for, or None.
        codes: the codes asked for, or None: then the data's own go before those of a book borrowed from another folder.

    Raises:
        SettingsError: nothing of that name is there, or several without one asked for.
        StaleFeaturesError, CheckpointMismatchError: they do not fit the start; both sides are named.
    """
    reads = MODELS[model].reads
    if "features" in reads:
        if start is not None:
            return fitting_vectors(start, dataset, features), None
        return choose("vectors", features, dataset.feature_names, dataset, "encode"), None
    if "codes" not in reads:
        return None, None
    if start is not None and mode == "reuse":
        return None, codes_of_own_book(start, dataset, features, codes)
    own = [name for name in dataset.code_names if not name.startswith(BORROWED)]
    name = choose("codes", codes, own if codes is None and own else dataset.code_names, dataset, "quantize")
    if start is not None:
        check_codes(start, dataset, name)
    return None, name


def fitting_vectors(start: Start, dataset: PreparedDataset, asked: str | None) -> str:
    """Name of the dataset's vectors that the start (or its code book) reads: the ones asked for, or those of its encoder.

    Raises:
        StaleFeaturesError: there are none, or those asked for are of another encoder or width.
        SettingsError: several fit.
    """
    stored = {name: dataset.feature_info(name) for name in dataset.feature_names}
    if asked is not None:
        choose("vectors", asked, list(stored), dataset, "encode")
    misfits = {name: _misfits(start, name, stored[name]) for name in ([asked] if asked is not None else stored)}
    fitting = [name for name, found in misfits.items() if not found]
    if len(fitting) > 1:
        raise SettingsError(
            [f"{dataset.path} has several item vectors that fit: {', '.join(fitting)}; choose one with --features"]
        )
    if not fitting:
        found = "; ".join(f"vectors {name} of {', '.join(differing)}" for name, differing in misfits.items())
        encoder = _encoder(start)[0] or "ENCODER"
        replaced = " --overwrite" if Path(encoder.rstrip("/")).name in dataset.feature_names else ""
        raise StaleFeaturesError(
            f"{start.folder} was trained on vectors of {_wanted(start)}, and {dataset.path} has {found or 'no vectors'}. "
            f"Encode its texts as there: `linguarec encode {dataset.path} --encoder {encoder}{replaced}`."
        )
    if _encoder(start)[0] is None:
        log.warning(
            "%s does not say whose vectors it read; %s of %s has their width", start.folder, fitting[0], dataset.path
        )
    return fitting[0]


def check_codes(start: Start, dataset: PreparedDataset, name: str) -> None:
    """Refuse codes of another size than the start's, or of another encoder's vectors.

    Raises:
        CheckpointMismatchError: the sizes differ.
        StaleFeaturesError: the encoders differ.
    """
    book = load_codes(dataset, name).book
    shape = start.description.shape
    if (book.subvectors, book.num_centroids) != (shape.code_books, shape.centroids):
        raise CheckpointMismatchError(
            f"The codes {name} of {dataset.path} are {book.subvectors} of {book.num_centroids} values, the model in "
            f"{start.folder} reads {shape.code_books} of {shape.centroids}: `linguarec quantize {dataset.path} "
            f"--features {book.encoder} --subvectors {shape.code_books} --centroids {shape.centroids}`."
        )
    if _differing_encoder(start, {book.encoder}, book.encoder_fingerprint):
        raise StaleFeaturesError(
            f"{start.folder} was trained on vectors of {_wanted(start)}, the codes {name} of {dataset.path} stand for "
            f"vectors of {_shown(book.encoder, book.encoder_fingerprint)}; quantize vectors of the same encoder."
        )


def book_of(start: Start) -> CodeBook:
    """The start's own code book.

    Raises:
        CheckpointMismatchError: it is not known.
    """
    if start.book is None:
        raise CheckpointMismatchError(
            f"{start.folder} has no {BOOK_FILE}, so nothing can be coded with its book; fine-tune on the codes of a book "
            "of the data's own, by `linguarec finetune --mode direct` or --mode permutation."
        )
    return start.book


def codes_of_own_book(start: Start, dataset: PreparedDataset, features: str | None, codes: str | None) -> str:
    """Name of the dataset's codes of the start's own book; if it has none they are made of its vectors, and stored.

    Raises:
        CheckpointMismatchError: the start's book is not known, or the codes asked for are of another book.
        StaleFeaturesError: there are no vectors of the encoder that the book was fitted on.
    """
    stored = stored_codes(start, dataset, codes)
    return _code_with(start, dataset, features) if stored is None else stored[0]


def stored_codes(start: Start, dataset: PreparedDataset, asked: str | None) -> tuple[str, ItemCodes] | None:
    """The dataset's stored codes of the start's own book with their name; None if there are none.

    Args:
        start: whose code book is meant.
        dataset: where codes are looked for.
        asked: name of the codes that must be of that book, or None to look at all.

    Raises:
        CheckpointMismatchError: the start's book is not known, or the codes asked for are of another book.
    """
    book = book_of(start)
    for name in dataset.code_names if asked is None else [asked]:
        stored = load_codes(dataset, name)
        if stored.book.fingerprint == book.fingerprint:
            return name, stored
        if asked is not None:
            raise CheckpointMismatchError(
                f"The codes {name} of {dataset.path} are of the code book {stored.book.fingerprint[:12]} ({stored.book}), "
                f"the model in {start.folder} of {book.fingerprint[:12]} ({book}); leave --codes out to code the items "
                "with it, or fine-tune on these by `linguarec finetune --mode direct` or --mode permutation."
            )
    return None


def _code_with(start: Start, dataset: PreparedDataset, features: str | None) -> str:
    """Code the dataset's items with the start's book and store the codes; their name."""
    book, vectors = book_of(start), fitting_vectors(start, dataset, features)
    name = f"{BORROWED}{book.fingerprint[:12]}"
    coded = ItemCodes(book.encode(dataset.features(vectors)), book, dataset.feature_info(vectors).texts_fingerprint)
    coded.save(dataset.codes_path(name))
    log.info("coded %d items with the code book of %s: codes %s of %s", len(coded), start.folder, name, dataset.path)
    return name


def _encoder(start: Start) -> tuple[str | None, str | None]:
    """Name of the encoder whose vectors the start read, and the hash of its weights."""
    if start.encoder is not None:
        return start.encoder.encoder, start.encoder.weights_sha256
    if start.book is not None:
        return start.book.encoder, start.book.encoder_fingerprint
    return None, None


def _width(start: Start) -> int | None:
    width = start.description.shape.feature_width
    return width if width is not None or start.book is None else start.book.width


def _misfits(start: Start, name: str, info: FeatureInfo) -> list[str]:
    """In what the vectors `name` differ from those that the start read."""
    found = []
    if _differing_encoder(start, {name, info.encoder}, info.weights_sha256):
        found.append(_shown(info.encoder, info.weights_sha256))
    if info.width != _width(start):
        found.append(f"width {info.width}")
    own = start.encoder
    if own is not None and info.pooling != own.pooling:
        found.append(f"pooling {info.pooling}")
    if own is not None and info.normalised != own.normalised:
        found.append("length 1" if info.normalised else "any length")
    return found


def _differing_encoder(start: Start, names: set[str], weights_sha256: str | None) -> bool:
    """By the hash of the weights where both are known, else by name; an unknown encoder differs from none."""
    own_name, own_sha256 = _encoder(start)
    if own_sha256 is not None and weights_sha256 is not None:
        return own_sha256 != weights_sha256
    return own_name is not None and own_name not in names


def _shown(encoder: str, weights_sha256: str | None) -> str:
    return encoder if weights_sha256 is None else f"{encoder} (weights {weights_sha256[:12]})"


def _wanted(start: Start) -> str:
    name, weights = _encoder(start)
    parts = [_shown(name, weights)] if name is not None else []
    width, own = _width(start), start.encoder
    parts += [f"width {width}"] if width is not None else []
    parts += [f"pooling {own.pooling}", "length 1" if own.normalised else "any length"] if own is not None else []
    return ", ".join(parts) or "an unknown encoder"
