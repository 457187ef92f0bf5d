"""Which vectors and codes of a prepared folder a training reads, and which of them fit a model that was trained elsewhere."""

import logging

from linguarec.batching.catalogue import encoder_of_book, load_codes, vectors_of_book
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.data.dataset import UNKNOWN, FeatureInfo, PreparedDataset
from linguarec.data.same_encoder import differing_vectors, encode_again
from linguarec.errors import CheckpointMismatchError, SettingsError, StaleFeaturesError
from linguarec.hub.pretrained import BOOK_FILE
from linguarec.models import MODELS
from linguarec.recipes.runs import choose, refuse, refuse_windows
from linguarec.recipes.sentence_inputs import tokens_for
from linguarec.recipes.starting import Start
from linguarec.training.settings import TrainingSettings

log = logging.getLogger(__name__)

BORROWED = "book-"  # begins the names of codes that are of a start's book, made where items are coded with it
# What else can be done with a start whose book does not serve; said to who fine-tunes.
OWN_CODES = "; or fine-tune on codes of the data's own by `linguarec finetune --mode permutation` or `--mode direct`"


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
        codes: the codes asked for, or None for the data's own: those of a book borrowed from another folder have to be named.

    Raises:
        SettingsError: nothing of that name is there, or several without one asked for; or what is named is not read.
        StaleFeaturesError, CheckpointMismatchError: they do not fit the start; both sides are named.
    """
    reads = MODELS[model].reads
    if "codes" not in reads:
        refuse(model, {"codes": codes})
    if "features" not in reads and mode != "reuse":
        refuse(model if start is None or mode is None else f"{model} --mode {mode}", {"features": features})
    if "features" in reads:
        if start is not None:
            return fitting_vectors(start, dataset, features), None
        return choose("vectors", features, dataset.feature_names, dataset, "encode"), None
    if "codes" not in reads:
        return None, None
    if start is not None and mode == "reuse":
        return None, codes_of_own_book(start, dataset, features, codes, OWN_CODES)
    name = own_codes(dataset, codes)
    if start is not None:
        check_codes(start, dataset, name)
    return None, name


def check_readable(
    model: str,
    dataset: PreparedDataset,
    training: TrainingSettings,
    features: str | None = None,
    codes: str | None = None,
    tokens: str | None = None,
    backbone: str | None = None,
) -> None:
    """Stop where the dataset lacks what `model` reads, trained from scratch, or where the settings are not for it.

    Raises:
        SettingsError: nothing of that name is there, or several without one asked for; or a setting is not for the model.
    """
    if MODELS[model].reads == "tokens":
        refuse_windows(model, training)
        tokens_for(None, dataset, tokens, backbone)
    else:
        training_inputs(model, None, dataset, None, features, codes)


def own_codes(dataset: PreparedDataset, asked: str | None) -> str:
    """Name of the codes asked for, or of the only ones that are not of a borrowed book.

    Raises:
        SettingsError: there are none, or several without one asked for.
    """
    return choose("codes", asked, candidate_codes(dataset, asked), dataset, "quantize")


def candidate_codes(dataset: PreparedDataset, asked: str | None) -> list[str]:
    """Names of the dataset's codes, without those of a borrowed book unless one is asked for by its name."""
    return [name for name in dataset.code_names if asked is not None or not name.startswith(BORROWED)]


def fitting_vectors(start: Start, dataset: PreparedDataset, asked: str | None) -> str:
    """Name of the dataset's vectors that the start (or its code book) reads: those asked for, or the ones of its encoder.

    Raises:
        StaleFeaturesError, SettingsError: as of `vectors_of`.
    """
    encoder = _encoder(start)
    assert encoder is not None  # models of vectors know their width; those of codes are refused before, without a book
    return vectors_of(encoder, f"{start.folder} was trained on", dataset, asked)


def vectors_of(encoder: FeatureInfo, reader: str, dataset: PreparedDataset, asked: str | None) -> str:
    """Name of the dataset's vectors of an encoder: the ones asked for, or those that are of it.

    Args:
        encoder: what is known of it.
        reader: who reads them, as messages begin: "FOLDER was trained on".
        dataset: where vectors are looked for.
        asked: name of the ones that must be of that encoder, or None to look at all.

    Raises:
        StaleFeaturesError: there are none, or those asked for are of another encoder or width.
        SettingsError: several fit, or there are none of that name.
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


def check_codes(start: Start, dataset: PreparedDataset, name: str) -> None:
    """Refuse codes of another size than the start's, or of another encoder's vectors.

    Raises:
        CheckpointMismatchError: the sizes differ.
        StaleFeaturesError: the encoders differ.
    """
    book, wanted = load_codes(dataset, name).book, _encoder(start)
    vectors = vectors_of_book(dataset, book)
    shape = start.description.shape
    if (book.subvectors, book.num_centroids) != (shape.code_books, shape.centroids):
        raise CheckpointMismatchError(
            f"The codes {name} of {dataset.path} are {book.subvectors} of {book.num_centroids} values, the model in "
            f"{start.folder} reads {shape.code_books} of {shape.centroids}: `linguarec quantize {dataset.path} "
            f"--features {vectors or book.encoder} --subvectors {shape.code_books} --centroids {shape.centroids}`."
        )
    if wanted is None:
        return
    info = encoder_of_book(book)
    differing = info.differences(wanted) if vectors is None else differing_vectors(dataset, wanted)[vectors]
    if differing:
        raise StaleFeaturesError(
            f"{start.folder} was trained on vectors of {wanted.described}, the codes {name} of {dataset.path} stand for "
            f"vectors of {info.described} ({', '.join(differing)}); quantize vectors of the same encoder. "
            f"{encode_again(dataset, wanted)}"
        )


def book_of(start: Start, otherwise: str = "") -> CodeBook:
    """The start's own code book. `otherwise`: what else can be done where there is none, a clause to end the message.

    Raises:
        CheckpointMismatchError: it is not known.
    """
    if start.book is None:
        raise CheckpointMismatchError(
            f"{start.folder} has no code book ({BOOK_FILE}), so nothing can be coded with it. A converted checkpoint gets one "
            "by `linguarec convert CHECKPOINT --items DATA --codes NAME`, with codes of the book that it was trained "
            f"on{otherwise}."
        )
    return start.book


def codes_of_own_book(
    start: Start, dataset: PreparedDataset, features: str | None, codes: str | None, otherwise: str = ""
) -> str:
    """Name of the dataset's codes of the start's own book; if it has none they are made of its vectors, and stored.

    Args:
        start: whose code book is meant.
        dataset: whose items are coded.
        features: the vectors asked for, or None; they have to fit even where stored codes make them needless.
        codes: name of the codes that must be of that book, or None to look at all.
        otherwise: what else can be done where this cannot be, a clause to end the message.

    Raises:
        CheckpointMismatchError: the start's book is not known, or the codes asked for are of another book.
        StaleFeaturesError: there are no vectors of the encoder that the book was fitted on.
        SettingsError: there are no codes or vectors of that name.
    """
    book = book_of(start, otherwise)
    if codes is not None:
        other = load_codes(dataset, choose("codes", codes, dataset.code_names, dataset, "quantize")).book
        if other.fingerprint != book.fingerprint:
            raise CheckpointMismatchError(
                f"The codes {codes} of {dataset.path} are of the code book {other.fingerprint[:12]} ({other}), "
                f"the model in {start.folder} of {book.fingerprint[:12]} ({book}); leave --codes out to code the items "
                f"with it{otherwise}."
            )
    name = codes or stored_codes(book, dataset)
    if name is None:
        return _code_with(start, book, dataset, fitting_vectors(start, dataset, features))
    leave_unread(start, dataset, features, name)
    return name


def stored_codes(book: CodeBook, dataset: PreparedDataset) -> str | None:
    """Name of the dataset's codes that are of that very book; None if there are none."""
    of_book = (name for name in dataset.code_names if load_codes(dataset, name).book.fingerprint == book.fingerprint)
    return next(of_book, None)


def leave_unread(start: Start, dataset: PreparedDataset, features: str | None, codes: str) -> None:
    """Vectors that are asked for where stored codes make them needless have to fit all the same; it is logged."""
    if features is not None:
        fitting_vectors(start, dataset, features)
        log.info("%s has codes of that code book, %s; its vectors %s are not read", dataset.path, codes, features)


def _code_with(start: Start, book: CodeBook, dataset: PreparedDataset, vectors: str) -> str:
    """Code the dataset's items with the start's book and store the codes; their name."""
    name = f"{BORROWED}{book.fingerprint[:12]}"
    coded = ItemCodes(book.encode(dataset.features(vectors)), book, dataset.feature_info(vectors).texts_fingerprint)
    coded.save(dataset.codes_path(name))
    log.info("coded %d items with the code book of %s: codes %s of %s", len(coded), start.folder, name, dataset.path)
    return name


def _encoder(start: Start) -> FeatureInfo | None:
    """What is known of the encoder whose vectors the start read; None = nothing."""
    if start.encoder is not None:
        return start.encoder
    if start.book is not None:
        return encoder_of_book(start.book)
    width = start.description.shape.feature_width
    return None if width is None else FeatureInfo(UNKNOWN, width, UNKNOWN, None, None, UNKNOWN)
