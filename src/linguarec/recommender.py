"""A trained run in use: model, catalogue, encoder reference and code book in one folder that can be moved.

    recommender = linguarec.load_model("runs/scientific")
    recommender.add_items([{"raw_id": "new", "title": "Digital caliper, 150 mm"}])
    recommender.recommend([["B0001", "new"]], k=10)

The text of a new item goes the way the catalogue went: cleaned, encoded, coded with the stored book, read by the model.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.catalogue import vectors_of_book
from linguarec.batching.tokens import cut_histories
from linguarec.catalogue import Catalogue, Items
from linguarec.codes.codebook import CodeBook, Codes, ItemCodes
from linguarec.data.dataset import FeatureInfo, PreparedDataset, read_feature_info
from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError
from linguarec.evaluation.evaluate import encode_items, evaluating, history_queries
from linguarec.files import write_json, writing_file
from linguarec.hub.pretrained import AGAIN, BOOK_FILE, ENCODER_FILE, ModelDescription, from_pretrained, save_pretrained
from linguarec.models import MODELS
from linguarec.ranking.ranks import best_columns, chunk_rows, full_precision
from linguarec.sentences import TOKENS_FOLDER, SentenceReader, no_tokens
from linguarec.stored import read_array, read_table
from linguarec.text.attributes import ItemTokens
from linguarec.text.cleaning import TextRules

if TYPE_CHECKING:
    from linguarec.text.encoders import TextEncoder

CATALOGUE_FILE, INPUTS_FILE, KEYS_FILE = "catalogue.parquet", "inputs.npy", "keys.npy"
CODES_FILE = "codes.npz"

Vectors = npt.NDArray[np.floating[Any]]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recommendation:
    """One recommended item; `score` orders the items of one history and means nothing across histories."""

    raw_id: str
    score: float
    title: str
    text: str


class Recommender:
    """Recommends items for histories of raw ids. Made by `from_training` or `load`.

    `inputs` (vectors [N, D], or tokens) and `keys` [N, Dk] are those of the catalogue's entries. `encoder`: whose text
    vectors the model or its code book reads, None if it reads no text. `codes`: the items' codes and the book that codes
    new ones, or None. `reader`: reads new items for a model of tokens, else None.
    """

    def __init__(
        self,
        model: nn.Module,
        description: ModelDescription,
        catalogue: Catalogue,
        inputs: Tensor | ItemTokens,
        keys: Tensor,
        encoder: FeatureInfo | None = None,
        codes: ItemCodes | None = None,
        reader: SentenceReader | None = None,
    ) -> None:
        if not len(catalogue) == len(inputs) == len(keys):
            raise CheckpointMismatchError(
                f"The catalogue has {len(catalogue)} items, there are {len(inputs)} inputs and {len(keys)} keys."
            )
        self.model = model.eval()
        self.description = description
        self.catalogue = catalogue
        self.inputs = inputs
        self.keys = keys
        self.encoder = encoder
        self.codes = codes
        self.reader = reader
        self._text_encoder: TextEncoder | None = None

    def __repr__(self) -> str:
        return f"Recommender({self.description.name}, {self.catalogue})"

    @classmethod
    def from_training(
        cls,
        model: nn.Module,
        description: ModelDescription,
        dataset: PreparedDataset,
        items: ItemBatch,
        features: str | None,
        codes: str | None,
    ) -> "Recommender":
        """The recommender of a model that was trained on `dataset`.

        Args:
            model: trained.
            description: of the model.
            dataset: whose items become the catalogue.
            items: the catalogue of `dataset`, with the vectors and codes that the model reads.
            features: name of the dataset's vectors that the model reads, or None.
            codes: name of the dataset's codes that the model reads, or None.
        """
        stored = None if codes is None else ItemCodes.load(dataset.codes_path(codes))
        encoder = features if stored is None else vectors_of_book(dataset, stored.book)
        rules = cast(TextRules, dataset.manifest.text_rules)
        return cls.of_items(
            model,
            description,
            Catalogue.of(dataset.items(), dataset.manifest.attributes, rules),
            items,
            None if encoder is None else dataset.feature_info(encoder),
            stored,
        )

    @classmethod
    def of_items(
        cls,
        model: nn.Module,
        description: ModelDescription,
        catalogue: Catalogue,
        items: ItemBatch,
        encoder: FeatureInfo | None = None,
        codes: ItemCodes | None = None,
    ) -> "Recommender":
        """The recommender of a catalogue whose entries are `items`, which the model reads now."""
        inputs, keys = _encode(model, items, torch.device("cpu"))
        return cls(model, description, catalogue, inputs, keys, encoder, codes)

    # -- the folder ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write everything that `load` needs into `folder`, each file atomically; other files there are left alone."""
        folder = Path(folder)
        save_pretrained(self.model, self.description, folder)
        table = self.catalogue.table.replace_schema_metadata({"text_rules": self.catalogue.text_rules})
        with writing_file(folder / CATALOGUE_FILE) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        tensors = {KEYS_FILE: self.keys}
        if isinstance(self.inputs, Tensor):
            tensors[INPUTS_FILE] = self.inputs
        elif self.reader is not None:
            self.reader.save(folder, self.inputs, self.catalogue.raw_ids)
        for name, tensor in tensors.items():
            with writing_file(folder / name) as temporary, temporary.open("wb") as file:
                np.save(file, tensor.float().cpu().numpy())
        if self.encoder is not None:
            write_json(folder / ENCODER_FILE, asdict(self.encoder))
        if self.codes is not None:
            self.codes.save(folder / CODES_FILE)

    @classmethod
    def load(cls, folder: str | Path) -> "Recommender":
        """Open a run folder, or that of a model without a catalogue (pre-trained or converted), to which items are added.

        Raises:
            CheckpointMismatchError: a part is missing, or the parts do not fit together.
        """
        folder = Path(folder)
        model, description = from_pretrained(folder)
        file = folder / ENCODER_FILE
        encoder = read_feature_info(file, CheckpointMismatchError, AGAIN) if file.exists() else None
        if description.shape.num_items == 0 and not (folder / CATALOGUE_FILE).exists():
            book = CodeBook.load(folder / BOOK_FILE) if (folder / BOOK_FILE).exists() else None
            reader = None
            if MODELS[description.name].reads == "tokens":
                reader = SentenceReader.load(folder, model, description)
            return cls._without_items(model, description, encoder, book, reader)
        tokens = MODELS[description.name].reads == "tokens"
        for name in (CATALOGUE_FILE, TOKENS_FOLDER if tokens else INPUTS_FILE, KEYS_FILE):
            if not (folder / name).exists():
                raise CheckpointMismatchError(
                    f"{folder} has no {name}: its training is not finished; go on with it by "
                    "`linguarec finetune ... --resume`."
                )
        table = read_table(folder / CATALOGUE_FILE, CheckpointMismatchError, AGAIN)
        rules = (table.schema.metadata or {}).get(b"text_rules", b"default").decode()
        catalogue = Catalogue(table.replace_schema_metadata(None), cast(TextRules, rules))
        keys = torch.from_numpy(read_array(folder / KEYS_FILE, CheckpointMismatchError, AGAIN))
        if tokens:
            inputs = SentenceReader.stored_tokens(folder, catalogue.raw_ids)
            reader = SentenceReader.load(folder, model, description)
            return cls(model, description, catalogue, inputs, keys, reader=reader)
        codes = folder / CODES_FILE
        return cls(
            model,
            description,
            catalogue,
            torch.from_numpy(read_array(folder / INPUTS_FILE, CheckpointMismatchError, AGAIN)),
            keys,
            encoder,
            ItemCodes.load(codes) if codes.exists() else None,
        )

    @classmethod
    def _without_items(
        cls,
        model: nn.Module,
        description: ModelDescription,
        encoder: FeatureInfo | None,
        book: CodeBook | None,
        reader: SentenceReader | None,
    ) -> "Recommender":
        if reader is not None:
            form = reader.form
            attributes = [name for name in form.attributes if name != "text"]
            columns = pa.table({name: pa.array([], pa.string()) for name in ("raw_id", *attributes, "text")})
            catalogue = Catalogue.of(columns, attributes, cast(TextRules, form.text_rules))
            keys = torch.zeros(0, description.config.hidden_size)
            return cls(model, description, catalogue, no_tokens(form), keys, reader=reader)
        assert description.encoder is not None
        nothing = pa.table({name: pa.array([], pa.string()) for name in ("raw_id", "text")})
        rules = cast(TextRules, "default" if encoder is None else encoder.text_rules)
        none = torch.zeros(0, description.encoder.hidden_size)
        codes = None if book is None else ItemCodes(np.zeros((0, book.subvectors), book.code_type), book)
        return cls(model, description, Catalogue.of(nothing, [], rules), none, none, encoder, codes)

    # -- recommending --------------------------------------------------------------------------------------------------

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        exclude_seen: bool = True,
        within: Sequence[str] | None = None,
        skip_unknown: bool = False,
    ) -> list[list[Recommendation]]:
        """The `k` best items for each history, best first; fewer where fewer are left. Equal scores: catalogue order.

        Args:
            histories: raw ids of each history, oldest first. The model reads the last `max_length` of them.
            k: how many items for each.
            exclude_seen: items of the history are not recommended.
            within: raw ids of the only items that may be recommended.
            skip_unknown: leave unknown ids out of histories and `within`, and log how many; else they are an error.

        Raises:
            UnknownItemError: an id is not in the catalogue, or a history has no known one left.
            SettingsError: a history is empty, or k is below 1.
        """
        if not isinstance(k, int | np.integer) or k < 1:
            raise SettingsError([f"k is {k}; it must be a whole number, at least 1"])
        if isinstance(within, str):
            raise SettingsError([f"within is the string {within!r}; expected a list of item ids"])
        if within is not None and not len(within):
            raise SettingsError(["within is empty, so nothing could be recommended; leave it out to allow all items"])
        rows, unknown = self.catalogue.rows(histories, skip_unknown)
        allowed = ~self.catalogue.removed
        if within is not None:
            listed, unlisted = self.catalogue.rows([within], skip_unknown)
            unknown += unlisted
            candidate = np.zeros(len(self.catalogue), dtype=bool)
            candidate[listed.values] = True
            allowed &= candidate
        if unknown:
            log.warning("left out %d unknown item ids, for instance %r", len(unknown), unknown[0])
        if isinstance(self.inputs, ItemTokens):
            config = self.description.config
            blank = cut_histories(self.inputs.lengths, rows, config.max_items, config.max_tokens)["without_text"]
            if blank:
                log.warning(
                    "%d histories have items without any text alone, and get what any such history would", blank
                )
        best = self._best(rows, k, exclude_seen, np.flatnonzero(allowed))
        return [[self._recommendation(entry, score) for entry, score in row] for row in best]

    def _best(
        self, histories: Ragged, k: int, exclude_seen: bool, allowed: npt.NDArray[np.int64]
    ) -> list[list[tuple[int, float]]]:
        """(entry, score) of the best `k` of the `allowed` entries for each history."""
        device = self.keys.device
        keys = self.keys[torch.from_numpy(allowed).to(device)]
        column_of = np.full(len(self.catalogue), -1, dtype=np.int64)
        column_of[allowed] = np.arange(len(allowed))
        best: list[list[tuple[int, float]]] = [[] for _ in range(len(histories))]
        chunk = chunk_rows(len(keys), device)
        with torch.inference_mode(), full_precision(device):
            for index, found in history_queries(self.model, self.inputs, histories, device):
                queries = found.float()
                for start in range(0, len(index), chunk):
                    part = index[start : start + chunk]
                    scores = queries[start : start + chunk] @ keys.T
                    if exclude_seen:
                        seen = histories.select(part)
                        columns = column_of[seen.values]
                        cases = np.repeat(np.arange(len(part)), seen.lengths)[columns >= 0]
                        scores[torch.from_numpy(cases), torch.from_numpy(columns[columns >= 0])] = -torch.inf
                    for number, row in zip(part.tolist(), best_columns(scores, k), strict=True):
                        best[number] = [(int(allowed[column]), score) for column, score in row]
        return best

    def _recommendation(self, entry: int, score: float) -> Recommendation:
        catalogue = self.catalogue
        return Recommendation(catalogue.raw_ids[entry], score, catalogue.title(entry), catalogue.text(entry))

    # -- the catalogue -------------------------------------------------------------------------------------------------

    def add_items(self, items: Items, vectors: Vectors | None = None) -> int:
        """Add items that the model never saw, known by their text: as if they had been there from the start.

        Args:
            items: `raw_id` and the catalogue's attribute columns (missing ones are empty), or `text`, which where there are
                both is what is read by models of text vectors.
            vectors: [n, F] text vectors of the run's encoder, in the order of `items`; None = encode the texts.

        Returns:
            The number of items added.

        Raises:
            DataFormatError: an id is missing, there twice or in the catalogue already; a column is missing or unknown.
            SettingsError: the model knows items by ID only, or its encoder is not at hand.
        """
        entries = self.catalogue.new_entries(items)
        if not len(entries):
            return 0
        if isinstance(self.inputs, Tensor):
            inputs, keys, codes = self.encode(entries["text"].to_pylist(), vectors)
            if self.codes is not None and codes is not None:
                self.codes = ItemCodes(np.concatenate([self.codes.codes, codes]), self.codes.book)
            self.inputs = torch.cat([self.inputs, inputs])
        else:
            assert self.reader is not None
            if vectors is not None:
                raise SettingsError(
                    [f"{self.description.name} reads the attributes of items and takes no vectors of them"]
                )
            tokens = self.reader.tokens(entries)
            keys = self.reader.keys(tokens, self.keys.device)
            self.inputs = ItemTokens.join([self.inputs, tokens])
        self.keys = torch.cat([self.keys, keys])
        self.catalogue = self.catalogue.with_added(entries)
        return len(entries)

    def remove_items(self, raw_ids: Sequence[str]) -> None:
        """Never recommend these items again; they stay readable in histories.

        Raises:
            UnknownItemError: an id is not in the catalogue.
        """
        self.catalogue = self.catalogue.with_removed(raw_ids)

    def encode(self, texts: Sequence[str], vectors: Vectors | None = None) -> tuple[Tensor, Tensor, Codes | None]:
        """Inputs [n, D], keys [n, Dk] and codes [n, M] (or None) of items that the model never saw.

        Args:
            texts: cleaned item texts.
            vectors: [n, F] text vectors of the run's encoder; None = encode the texts.

        Raises:
            SettingsError: the model knows items by ID only, or its encoder or code book is not at hand.
            DataFormatError: the vectors are not of the width that the model reads, not one for each item, or not finite.
        """
        name, width = self.description.name, self.description.shape.feature_width
        if MODELS[name].reads == "codes" and self.codes is None:
            raise SettingsError(
                [
                    f"{name} reads item codes, and its folder holds no code book to code new items with; convert it again "
                    "with --items DATA --codes NAME, or fine-tune it"
                ]
            )
        if MODELS[name].reads == "ids":
            raise SettingsError(
                [f"{name} knows items by ID only and cannot read new ones; train a model that reads text"]
            )
        found = self._vectors(texts) if vectors is None else np.asarray(vectors, dtype=np.float32)
        if len(found) != len(texts):
            raise DataFormatError(f"There are {len(texts)} new items and {len(found)} vectors; give one for each item.")
        if "features" in MODELS[name].reads and found.shape[1:] != (width,):
            raise DataFormatError(
                f"The vectors of the new items have the shape {found.shape}, this {name} reads vectors of width {width}; "
                "take those of the encoder that it was trained with."
            )
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise DataFormatError(
                f"The vectors of {len(bad)} of the {len(found)} new items hold NaN or an infinity, first that of row {bad[0]}."
            )
        codes = None if self.codes is None else self.codes.book.encode(found)
        items = ItemBatch(
            rows=torch.full((len(texts),), -1),
            domain=torch.zeros(len(texts), dtype=torch.int64),
            features=torch.from_numpy(found),
            codes=None if codes is None else torch.from_numpy(codes.astype(np.int64)),
        )
        inputs, keys = _encode(self.model, items, self.keys.device)
        return inputs, keys, codes

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if self.encoder is None or self.encoder.weights_sha256 is None:
            origin = "" if self.encoder is None else f" ({self.encoder.encoder})"
            raise SettingsError([f"the run's text vectors{origin} were imported, not encoded here; give `vectors`"])
        if self._text_encoder is None:
            from linguarec.text.encoders import TextEncoder

            self._text_encoder = TextEncoder.load(self.encoder)
        return np.asarray(self._text_encoder.encode(list(texts)), dtype=np.float32)


def _encode(model: nn.Module, items: ItemBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    with evaluating(model), torch.inference_mode(), full_precision(device):
        inputs, keys = encode_items(model, items, device)
    return inputs.float(), keys.float()
