"""Items by the tokens of their attributes: stored tokens of one tokenizer; new items are tokenized with the same tokenizer."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from linguarec.batching.batches import ItemBatch
from linguarec.batching.tokens import item_tokens
from linguarec.data.dataset import PreparedDataset, fingerprint_of_texts
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError, StaleFeaturesError
from linguarec.files import writing_folder
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.choosing import choose
from linguarec.sources.source import Asked, IntArray, ItemSource, Vectors
from linguarec.text.attributes import AttributeTokenizer, ItemTokens, SentenceForm
from linguarec.text.token_store import (
    TOKENIZER_FILE,
    StoredTokens,
    copy_tokenizer,
    open_tokens,
    read_form,
    save_tokens,
    tokenize_command,
    write_form,
)

if TYPE_CHECKING:
    import pyarrow as pa

SENTENCES_FILE, TOKENS_FOLDER = "sentences.json", "tokens"
_NO_LIMIT = 1 << 30
log = logging.getLogger(__name__)


class TokenSource(ItemSource):
    """Tokens of items, the form of their sentences, and the tokenizer's file.

    `form` is None if it is not known, for example after a conversion. `tokenizer`: None = use the tokenizer of the form's
    backbone, which must then be on this machine. `name`: of the stored tokens. Histories are read from the same tokens.
    """

    flags: ClassVar = {
        "tokens": "name of the stored item tokens, for models that read them; not needed if only one fits"
    }

    def __init__(
        self,
        folder: Path,
        tokens: ItemTokens,
        form: SentenceForm | None,
        tokenizer: Path | None = None,
        name: str | None = None,
    ) -> None:
        self.folder = folder
        self.tokens = tokens
        self.form = form
        self.tokenizer = tokenizer
        self.name = name

    # -- opening and choosing -------------------------------------------------------------------------------------------

    @classmethod
    def stored(cls, dataset: PreparedDataset, name: str) -> "TokenSource":
        """The stored tokens `name` of a folder, memory-mapped.

        Raises:
            StaleFeaturesError: they were made from another catalogue.
        """
        found = _opened(dataset, name)
        return cls(dataset.path, found.tokens, found.form, found.tokenizer, name)

    @classmethod
    def choose(cls, dataset: PreparedDataset, asked: Asked, start: "TokenSource | None" = None) -> "TokenSource":
        """The requested stored tokens, or the only ones; with `start` or a "backbone" in `asked`, those of its tokenizer."""
        name, backbone = asked.get("tokens"), asked.get("backbone")
        form = None if start is None else start.form
        if backbone is not None and start is None and name is None and len(dataset.token_names) > 1:
            form = AttributeTokenizer.load(backbone).form
        if form is not None:
            return fitting_tokens(form, dataset, name)
        flags = "" if backbone is None else f" --backbone {shlex.quote(backbone)}"
        return cls.stored(dataset, choose("tokens", name, dataset.token_names, dataset, "tokenize", flags))

    @classmethod
    def choose_for_all(
        cls, datasets: list[PreparedDataset], asked: Asked, start: "TokenSource | None" = None
    ) -> list["TokenSource"]:
        """Tokens of one tokenizer, that of the first folder's tokens."""
        form = cls.choose(datasets[0], asked, start).known_form()
        return [fitting_tokens(form, dataset, asked.get("tokens")) for dataset in datasets]

    @classmethod
    def load(cls, folder: Path, shape: CatalogueShape, raw_ids: Sequence[str] | None = None) -> "TokenSource":
        """Load the form, if it is known, and the tokens of the run's items."""
        file = folder / SENTENCES_FILE
        form = read_form(file) if file.exists() else None
        tokenizer = folder / TOKENIZER_FILE
        if raw_ids is not None:
            found = open_tokens(folder / TOKENS_FOLDER, fingerprint_of_texts(raw_ids))
            return cls(folder, found.tokens, form, tokenizer)
        return cls(folder, _no_tokens(form), form, tokenizer)

    def matching(self, dataset: PreparedDataset, asked: Asked, encode: bool = True) -> "TokenSource":
        """The folder's stored tokens of this tokenizer, or of any if it is not known; warns if the forms differ."""
        if self.form is None:
            return type(self).choose(dataset, asked)
        found = fitting_tokens(self.form, dataset, asked.get("tokens"))
        warn_of_other_sentences({self.folder: self.form, dataset.path: found.known_form()})
        return found

    # -- the items ------------------------------------------------------------------------------------------------------

    def known_form(self) -> SentenceForm:
        """How items become tokens.

        Raises:
            CheckpointMismatchError: the form is not known.
        """
        if self.form is None:
            raise CheckpointMismatchError(
                f"{self.folder} has no {SENTENCES_FILE}, which describes how items become tokens. Fine-tune it with "
                f"`linguarec finetune MODEL DATA --from {self.folder}`, which uses the sentence form of DATA."
            )
        return self.form

    def new(self, items: "pa.Table", vectors: Vectors | None = None) -> "TokenSource":
        """Tokenize the attributes of new items; the number of cut values is logged."""
        form = self.known_form()
        if vectors is not None:
            raise SettingsError(["this model reads the attributes of items and takes no vectors of them"])
        missing = [name for name in form.attributes if name not in items.column_names]
        if missing:
            raise DataFormatError(
                f"The model reads the attributes {', '.join(form.attributes)}; the items lack {', '.join(missing)}."
            )
        tokens, counts = self._attribute_tokenizer.tokenize({name: items[name].to_pylist() for name in form.attributes})
        empty = (tokens.lengths == 0).nonzero()[0]
        if len(empty):
            raise DataFormatError(
                f"New item {items['raw_id'][int(empty[0])].as_py()!r} has no text in any of the attributes that the model "
                f"reads: {', '.join(form.attributes)}."
            )
        if counts.cut_values:
            log.warning(
                "cut %d values of the new items at %d tokens, name included", counts.cut_values, form.attribute_tokens
            )
        return type(self)(self.folder, tokens, form, self.tokenizer)

    @cached_property
    def _attribute_tokenizer(self) -> AttributeTokenizer:
        return AttributeTokenizer.of(self.known_form(), self.tokenizer)

    @property
    def shape(self) -> CatalogueShape:
        """Number of items."""
        return CatalogueShape(len(self))

    @property
    def names(self) -> dict[str, str | None]:
        """The name of the tokens."""
        return {"tokens": self.name}

    @property
    def attributes(self) -> list[str]:
        """Attributes of a sentence."""
        return [name for name in self.known_form().attributes if name != "text"]

    @property
    def text_rules(self) -> str | None:
        """Text rules of the form."""
        return None if self.form is None else self.form.text_rules

    def part(self, rows: IntArray, draws: IntArray | None = None) -> ItemBatch:
        """Rows and full tokens of the items."""
        tokens = item_tokens(self.tokens, rows, _NO_LIMIT)
        return ItemBatch(torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int64), tokens=tokens)

    def select(self, rows: IntArray) -> "TokenSource":
        """The items at `rows`, in that order."""
        return type(self)(self.folder, self.tokens.select(rows), self.form, self.tokenizer)

    def without_items(self) -> "TokenSource":
        """The form and the tokenizer, without tokens."""
        return type(self)(self.folder, _no_tokens(self.form), self.form, self.tokenizer)

    def joined(self, other: "TokenSource") -> "TokenSource":
        """The items of both sources."""
        return type(self)(self.folder, ItemTokens.join([self.tokens, other.tokens]), self.form, self.tokenizer)

    def save(self, folder: Path) -> None:
        """Write the form and the tokenizer."""
        write_form(folder / SENTENCES_FILE, self.known_form())
        copy_tokenizer(self.tokenizer, folder)

    def save_items(self, folder: Path, raw_ids: Sequence[str]) -> None:
        """Write the tokens of a run's items."""
        with writing_folder(folder / TOKENS_FOLDER, overwrite=True) as target:
            save_tokens(target, self.tokens, self.known_form(), fingerprint_of_texts(raw_ids))

    def settings(self) -> dict[str, Any]:
        """The form of the sentences."""
        return {"sentences": asdict(self.known_form())}

    def __len__(self) -> int:
        return len(self.tokens)


def fitting_tokens(form: SentenceForm, dataset: PreparedDataset, asked: str | None = None) -> TokenSource:
    """The tokens of a folder that were made by the tokenizer of `form`.

    Raises:
        StaleFeaturesError: there are none, or the requested ones are of another tokenizer.
        SettingsError: several match.
    """
    names = [choose("tokens", asked, dataset.token_names, dataset, "tokenize")] if asked else dataset.token_names
    stored = {name: TokenSource.stored(dataset, name) for name in names}
    fitting = [name for name, source in stored.items() if source.known_form().tokenizer_sha256 == form.tokenizer_sha256]
    if len(fitting) > 1:
        raise SettingsError(
            [
                f"{dataset.path} has several item tokens that fit: {', '.join(fitting)}; choose one with --tokens, or "
                "keep only one of them there"
            ]
        )
    if not fitting:
        found = ", ".join(f"{name} by that of {source.known_form().backbone}" for name, source in stored.items())
        taken = (asked or Path(form.backbone).name) in dataset.token_names
        raise StaleFeaturesError(
            f"The model reads tokens by the tokenizer of {form.backbone}, and {dataset.path} has {found or 'no tokens'}. "
            f"{_again(dataset, form, asked, overwrite=taken)}"
        )
    return stored[fitting[0]]


def warn_of_other_sentences(read: Mapping[Path, SentenceForm]) -> None:
    """Log one warning if the forms of folders differ, so that their items become different sentences.

    It is not an error: a shop may lack an attribute or have another name for it.

    Args:
        read: folder -> form of its tokens; includes the folder of the model that reads them, if it records its form.
    """
    alike: dict[str, list[str]] = {}
    for folder, form in read.items():
        told = (
            f"attributes {', '.join(form.attributes)}, of each at most {form.attribute_tokens} tokens, "
            f"text rules {form.text_rules}"
        )
        alike.setdefault(told, []).append(str(folder))
    if len(alike) > 1:
        sides = "; ".join(f"{', '.join(folders)}: {told}" for told, folders in alike.items())
        log.warning(
            "items become sentences in %d ways: %s. If that is not meant, tokenize with the same --attributes and "
            "--attribute-tokens, and prepare with the same --text-rules.",
            len(alike),
            sides,
        )


def _no_tokens(form: SentenceForm | None) -> ItemTokens:
    start = 0 if form is None else form.start
    return ItemTokens(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(1, np.int64), start)


def _opened(dataset: PreparedDataset, name: str) -> StoredTokens:
    def again(form: SentenceForm | None) -> str:
        return _again(dataset, form, name, overwrite=True)

    return open_tokens(dataset.tokens_path(name), dataset.fingerprint, again)


def _again(dataset: PreparedDataset, form: SentenceForm | None, name: str | None, overwrite: bool) -> str:
    """A sentence with the command that makes the folder's tokens, of the attributes of the form that it has."""
    known = [*dataset.manifest.attributes, "text"]
    return f"Make them: {tokenize_command(dataset.path, form, known, name, overwrite)}."
