"""Items by their discrete codes: stored codes with their codebook, and new texts encoded and coded with it."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import ItemBatch
from linguarec.codes.codebook import CodeBook, Codes, ItemCodes
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import UNKNOWN, FeatureInfo
from linguarec.data.same_encoder import check_same_encoder, differing_vectors, encode_again
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError, StaleFeaturesError
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.choosing import choose, choose_for_all
from linguarec.sources.embeddings import EmbeddingSource, SharedEncoder, check_vectors, read_encoder, write_encoder
from linguarec.sources.source import Asked, IntArray, ItemSource, Vectors

if TYPE_CHECKING:
    import pyarrow as pa

CODES_FILE, BOOK_FILE = "codes.npz", "code_book.npz"
BORROWED = "book-"  # name prefix of codes made with the codebook of the model that a training starts from
log = logging.getLogger(__name__)


class CodeSource(ItemSource):
    """Codes [N, M] of items, the codebook that made them, and the known facts about the encoder of its vectors.

    `book` and `encoder` are None if not known, for example after a conversion without items. `name`: of the stored codes.
    `centroids`: K, if there is no codebook. `features`: name of the stored vectors, if the codes were made from them now.
    `shared`: holds the encoder of new texts.
    """

    flags: ClassVar = {
        "codes": "name of the stored item codes, for models that read them; not needed if the folder has only one, not "
        "counting codes made with another model's codebook (book-...)",
        "features": "name of the stored text embeddings to code items from, if the folder has no codes of the model's codebook",
    }

    def __init__(
        self,
        folder: Path,
        codes: Codes,
        book: CodeBook | None,
        encoder: FeatureInfo | None,
        name: str | None = None,
        centroids: int | None = None,
        features: str | None = None,
        shared: SharedEncoder | None = None,
    ) -> None:
        self.folder = folder
        self.codes = codes
        self.book = book
        self.encoder = encoder
        self.name = name
        self.features = features
        self.shared = SharedEncoder() if shared is None else shared
        self.centroids = centroids if book is None else book.num_centroids

    # -- opening and choosing -------------------------------------------------------------------------------------------

    @classmethod
    def stored(cls, dataset: PreparedDataset, name: str) -> "CodeSource":
        """The stored codes `name` of a folder.

        Raises:
            DataFormatError: there are no codes of that name.
            StaleFeaturesError: they do not belong to the catalogue.
        """
        found = load_codes(dataset, name)
        vectors = vectors_of_book(dataset, found.book)
        encoder = None if vectors is None else dataset.feature_info(vectors)
        return cls(dataset.path, found.codes, found.book, encoder, name)

    @classmethod
    def choose(cls, dataset: PreparedDataset, asked: Asked, start: "CodeSource | None" = None) -> "CodeSource":
        """The requested stored codes, or the only ones with a codebook of the folder's own. With `start` they must have its
        sizes and encoder, but may have another codebook (see `coded_alike`)."""
        name = choose("codes", asked.get("codes"), own_names(dataset, asked.get("codes")), dataset, "quantize")
        if start is not None:
            start.check_sizes(dataset, name)
        return cls.stored(dataset, name)

    @classmethod
    def choose_for_all(
        cls, datasets: list[PreparedDataset], asked: Asked, start: "CodeSource | None" = None
    ) -> list["CodeSource"]:
        """Codes of one codebook; with `start` of the start's codebook, and folders without such codes are coded now."""
        if start is not None:
            sources = [start.coded_alike(dataset, asked) for dataset in datasets]
        else:
            stored = [own_names(dataset, asked.get("codes")) for dataset in datasets]
            chosen = choose_for_all("codes", asked.get("codes"), datasets, stored, "quantize")
            sources = [cls.stored(dataset, chosen) for dataset in datasets]
        first = sources[0].known_book()
        for source in sources[1:]:
            book = source.known_book()
            if book.fingerprint != first.fingerprint:
                raise StaleFeaturesError(
                    f"The codes {source.name} of {source.folder} are of {book}, those of {sources[0].folder} of {first} with "
                    f"other contents: the codebooks were fitted separately. Fit one for all folders: "
                    f"`linguarec quantize {' '.join(str(each.path) for each in datasets)} --features {book.encoder} "
                    f"--subvectors {book.subvectors} --centroids {book.num_centroids} --name {source.name} --overwrite`."
                )
        known = [(dataset, name) for dataset in datasets if (name := vectors_of_book(dataset, first)) is not None]
        common = check_same_encoder(known) if known else None
        return [cls(each.folder, each.codes, each.book, common, each.name) for each in sources]

    @classmethod
    def load(cls, folder: Path, shape: CatalogueShape, raw_ids: Sequence[str] | None = None) -> "CodeSource":
        """Load the codebook, if it is known, and the codes of the run's items."""
        code_books, centroids = shape.needs_codes()
        files = [folder / name for name in (BOOK_FILE, CODES_FILE) if (folder / name).exists()]
        book = CodeBook.load(files[0]) if files else None
        if book is not None and (book.subvectors, book.num_centroids) != (code_books, centroids):
            raise CheckpointMismatchError(
                f"{files[0]} has {book.subvectors} books of {book.num_centroids} codes, but the model beside it "
                f"{code_books} of {centroids}; they do not belong together."
            )
        if raw_ids is not None and book is not None and (folder / CODES_FILE).exists():
            codes = ItemCodes.load(folder / CODES_FILE).codes
        else:
            codes = np.zeros((0, code_books), np.uint8 if book is None else book.code_type)
        return cls(folder, codes, book, read_encoder(folder), None, centroids)

    def matching(self, dataset: PreparedDataset, asked: Asked, encode: bool = True) -> "CodeSource":
        """The folder's stored codes of this codebook; else its vectors of the codebook's encoder, or its texts, coded now."""
        book = self.known_book()
        name = stored_codes(book, dataset)
        if name is not None:
            self._leave_unread(dataset, asked.get("features"), name)
            return type(self).stored(dataset, name)
        # A codebook alone records the name and hash of its encoder, but not the settings that encoding needs.
        known = self.encoder is not None
        found = self._vectors_of_encoder().matching(dataset, {"features": asked.get("features")}, encode and known)
        with _naming(dataset.path if found.name is None else dataset.feature_path(found.name)):
            return type(self)(dataset.path, book.encode(found.vectors), book, self.encoder, features=found.name)

    def coded_alike(self, dataset: PreparedDataset, asked: Asked, otherwise: str = "") -> "CodeSource":
        """The folder's items by codes of this source's codebook; missing codes are made from its vectors and stored.

        Args:
            dataset: the folder.
            asked: "codes": must be of this codebook; "features": must be of its encoder, even if stored codes are read instead.
            otherwise: an alternative for the user, a clause at the end of the error message.

        Raises:
            CheckpointMismatchError: the codebook is not known, or the requested codes are of another one.
            StaleFeaturesError: there are no vectors of the encoder that the codebook was fitted on.
            SettingsError: there are no codes or vectors of that name.
        """
        book, codes = self.known_book(otherwise), asked.get("codes")
        if codes is not None:
            other = load_codes(dataset, choose("codes", codes, dataset.code_names, dataset, "quantize")).book
            if other.fingerprint != book.fingerprint:
                raise CheckpointMismatchError(
                    f"The codes {codes} of {dataset.path} are of the codebook {other.fingerprint[:12]} ({other}), "
                    f"the model in {self.folder} of {book.fingerprint[:12]} ({book}); leave --codes out to code the items "
                    f"with it{otherwise}."
                )
        name = codes or stored_codes(book, dataset)
        if name is not None:
            self._leave_unread(dataset, asked.get("features"), name)
            return type(self).stored(dataset, name)
        vectors = self._vectors_of_encoder().fitting(dataset, asked.get("features"))
        made = f"{BORROWED}{book.fingerprint[:12]}"
        texts = dataset.feature_info(vectors).texts_fingerprint
        with _naming(dataset.feature_path(vectors)):
            coded = ItemCodes(book.encode(dataset.features(vectors)), book, texts)
        coded.save(dataset.codes_path(made))
        log.info("coded %d items with the codebook of %s: codes %s of %s", len(coded), self.folder, made, dataset.path)
        return type(self).stored(dataset, made)

    def known_book(self, otherwise: str = "") -> CodeBook:
        """The codebook. `otherwise`: an alternative for the user, a clause at the end of the error message.

        Raises:
            CheckpointMismatchError: the codebook is not known.
        """
        if self.book is None:
            raise CheckpointMismatchError(
                f"{self.folder} has no codebook ({BOOK_FILE}), so nothing can be coded with it. A converted checkpoint gets "
                "one by `linguarec convert CHECKPOINT --items DATA --codes NAME`, with codes of the codebook that it was "
                f"trained on{otherwise}."
            )
        return self.book

    def check_sizes(self, dataset: PreparedDataset, name: str) -> None:
        """Refuse codes of another size than this source's, or of another encoder's vectors.

        Raises:
            CheckpointMismatchError: the sizes differ.
            StaleFeaturesError: the encoders differ.
        """
        book = load_codes(dataset, name).book
        vectors = vectors_of_book(dataset, book)
        code_books, centroids = self.shape.needs_codes()
        if (book.subvectors, book.num_centroids) != (code_books, centroids):
            raise CheckpointMismatchError(
                f"The codes {name} of {dataset.path} are {book.subvectors} of {book.num_centroids} values, the model in "
                f"{self.folder} reads {code_books} of {centroids}: `linguarec quantize {dataset.path} "
                f"--features {vectors or book.encoder} --subvectors {code_books} --centroids {centroids}`."
            )
        wanted = self._known_encoder()
        if wanted is None:
            return
        info = encoder_of_book(book)
        differing = info.differences(wanted) if vectors is None else differing_vectors(dataset, wanted)[vectors]
        if differing:
            raise StaleFeaturesError(
                f"{self.folder} was trained on vectors of {wanted.described}, the codes {name} of {dataset.path} stand for "
                f"vectors of {info.described} ({', '.join(differing)}); quantize vectors of the same encoder. "
                f"{encode_again(dataset, wanted)}"
            )

    def _known_encoder(self) -> FeatureInfo | None:
        if self.encoder is not None:
            return self.encoder
        return None if self.book is None else encoder_of_book(self.book)

    def _vectors_of_encoder(self) -> EmbeddingSource:
        """The source of the vectors that the codebook codes, without items."""
        info = self.encoder or encoder_of_book(self.known_book())
        reader = "The codebook of this training was fitted on" if len(self) else None
        return EmbeddingSource(
            self.folder, info, np.zeros((0, info.width), np.float32), reader=reader, shared=self.shared
        )

    def _leave_unread(self, dataset: PreparedDataset, features: str | None, codes: str) -> None:
        """Check requested vectors that are not read because the folder has stored codes, and log that they are not read."""
        if features is not None:
            self._vectors_of_encoder().fitting(dataset, features)
            log.info("%s has codes of that codebook, %s; its vectors %s are not read", dataset.path, codes, features)

    # -- the items ------------------------------------------------------------------------------------------------------

    def new(self, items: "pa.Table", vectors: Vectors | None = None) -> "CodeSource":
        """Code the `vectors` of new items, or their texts, which are encoded now."""
        if self.book is None:
            raise SettingsError(
                [
                    f"{self.folder} holds no codebook to code new items with; convert it again with --items DATA --codes NAME, "
                    "or fine-tune it"
                ]
            )
        reader = self._vectors_of_encoder()
        found = check_vectors(reader.vectors_of_new(items, vectors), len(items), None)
        return type(self)(self.folder, self.book.encode(found), self.book, self.encoder, shared=self.shared)

    def new_vectors(self, items: "pa.Table") -> npt.NDArray[np.float32]:
        """Vectors [n, F] of the texts of new items, encoded now, as the codebook codes them."""
        return self._vectors_of_encoder().new_vectors(items)

    @property
    def encoder_id(self) -> str | None:
        """The encoder of the codebook's vectors, if it is known."""
        known = self._known_encoder()
        return None if known is None else known.described

    @property
    def shape(self) -> CatalogueShape:
        """Number of items, M and K."""
        return CatalogueShape(len(self), code_books=self.codes.shape[1], centroids=self.centroids)

    @property
    def names(self) -> dict[str, str | None]:
        """The name of the codes, and of the vectors that they were made of now."""
        return {"codes": self.name} | ({} if self.features is None else {"features": self.features})

    @property
    def text_rules(self) -> str | None:
        """Text rules of the encoder of the codebook's vectors."""
        return None if self.encoder is None or self.encoder.text_rules == UNKNOWN else self.encoder.text_rules

    def part(self, rows: IntArray, draws: IntArray | None = None) -> ItemBatch:
        """Rows and codes [N, M] int64."""
        codes = torch.from_numpy(self.codes[rows].astype(np.int64))
        return ItemBatch(torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int64), codes=codes)

    def joined(self, other: "CodeSource") -> "CodeSource":
        """The items of both sources."""
        return type(self)(
            self.folder, np.concatenate([self.codes, other.codes]), self.book, self.encoder, shared=self.shared
        )

    def without_items(self) -> "CodeSource":
        """The codebook without codes."""
        return type(self)(self.folder, self.codes[:0], self.book, self.encoder, shared=self.shared)

    def save(self, folder: Path) -> None:
        """Write the codebook, with the codes if there are items, and the known facts about the encoder."""
        if self.encoder is not None:
            write_encoder(folder, self.encoder)
        if self.book is not None and len(self):
            ItemCodes(self.codes, self.book).save(folder / CODES_FILE)
        elif self.book is not None:
            self.book.save(folder / BOOK_FILE)

    def __len__(self) -> int:
        return len(self.codes)


def own_names(dataset: PreparedDataset, asked: str | None) -> list[str]:
    """Names of the folder's codes, without codes of another model's codebook (`book-...`), unless a name is requested."""
    return [name for name in dataset.code_names if asked is not None or not name.startswith(BORROWED)]


def stored_codes(book: CodeBook, dataset: PreparedDataset) -> str | None:
    """Name of the folder's codes that were made with this codebook; None if there are none."""
    of_book = (name for name in dataset.code_names if load_codes(dataset, name).book.fingerprint == book.fingerprint)
    return next(of_book, None)


def load_codes(dataset: PreparedDataset, name: str) -> ItemCodes:
    """Load the codes `name` of a folder with their codebook, checked against its catalogue.

    Raises:
        DataFormatError: the folder has no codes of that name.
        StaleFeaturesError: they do not belong to the catalogue's texts.
    """
    path = dataset.codes_path(name)
    codes = ItemCodes.load(path)
    with _naming(path):
        codes.check(dataset.num_items, dataset.texts_fingerprint)
    return codes


def encoder_of_book(book: CodeBook) -> FeatureInfo:
    """The encoder of a codebook's vectors, as far as the codebook records it: width, name, and perhaps the hash."""
    return FeatureInfo(book.encoder, book.width, UNKNOWN, book.encoder_fingerprint, None, UNKNOWN)


def vectors_of_book(dataset: PreparedDataset, book: CodeBook) -> str | None:
    """Name of the folder's vectors of the codebook's encoder, preferably of the same name; None if no vectors match."""
    encoder = encoder_of_book(book)
    if encoder.encoder == UNKNOWN and encoder.weights_sha256 is None:
        return None
    fitting = [name for name, differing in differing_vectors(dataset, encoder).items() if not differing]
    return book.encoder if book.encoder in fitting else next(iter(fitting), None)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Put the name of `file` at the beginning of errors raised in the block."""
    try:
        yield
    except (DataFormatError, StaleFeaturesError) as error:
        raise type(error)(f"{file}: {error}") from error
