"""Items as key-value sentences: attribute names and values as tokens (Recformer, arXiv 2305.13731, section 2.1).

    {"title": "eSUN filament", "brand": "eSUN"}   ->   ids    title es ##un fil ##ament brand es ##un
                                                       types    1   2   2    2    2       1   2   2

Each attribute has a budget of tokens for key and value together. An attribute that an item lacks, or whose value has no token,
gives no tokens at all; under the released text rules, a value without tokens still gives its key, as in the released code.
Special tokens in a text ("[SEP]") are treated as text.
"""

import hashlib
import itertools
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from linguarec.errors import SettingsError, StaleFeaturesError
from linguarec.text.cleaning import clean_text
from linguarec.text.references import DEFAULT_ENCODER, fast_tokenizer, find_encoder, lasting_name
from linguarec.values import LIST_SEPARATOR, written_out

KEY, VALUE = 1, 2  # token types; 0 is <s>
ITEMS_A_BLOCK = 1 << 12  # items that `ItemTokens.select` gathers at a time
LETTERS_A_BATCH = 1 << 20  # text that is tokenized at a time
SPACES = ("\u0120", "\u2581")  # how byte-level and sentence-piece tokenizers write the space before a word
BYTE = re.compile("<0x[0-9A-F]{2}>")  # how sentence-piece tokenizers write a byte of a rare character

Ids = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class SentenceForm:
    """How the attributes of an item become tokens, as JSON fields; enough to tokenize a new item in the same way.

    `backbone`: name or folder of the language model whose tokenizer is used; `tokenizer_sha256`: checks that another machine
    has the same tokenizer. `vocabulary`: bound of its ids (exclusive). `start`, `mask`: ids of `<s>` and of the mask token,
    which a tokenizer may lack. `attributes`: names, in order. `attribute_tokens`: budget of each. `text_rules`: cleaning of
    the values.
    """

    backbone: str
    tokenizer_sha256: str
    vocabulary: int
    start: int
    mask: int | None
    attributes: list[str]
    attribute_tokens: int
    text_rules: str


@dataclass(frozen=True, eq=False)
class ItemTokens:
    """Tokens of N items without `<s>`: flat `ids` and `types` [T] (1 = key, 2 = value), `offsets` [N+1]; `start`: id
    of `<s>`."""

    ids: Ids
    types: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    start: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"ItemTokens({len(self):,} items, {len(self.ids):,} tokens)"

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each item [N]."""
        return np.diff(self.offsets)

    def select(self, rows: npt.NDArray[np.int64]) -> "ItemTokens":
        """The items at `rows`, in that order."""
        offsets = _offsets(self.offsets[rows + 1] - self.offsets[rows])
        ids, types = (np.empty(offsets[-1], values.dtype) for values in (self.ids, self.types))
        # The indices of the tokens take 8 bytes each, more than the tokens themselves.
        for first in range(0, len(rows), ITEMS_A_BLOCK):
            ends = offsets[first : first + ITEMS_A_BLOCK + 1]
            begin = self.offsets[rows[first : first + ITEMS_A_BLOCK]]
            source = np.arange(ends[0], ends[-1]) + np.repeat(begin - ends[:-1], np.diff(ends))
            ids[ends[0] : ends[-1]], types[ends[0] : ends[-1]] = self.ids[source], self.types[source]
        return ItemTokens(ids, types, offsets, self.start)

    @staticmethod
    def join(parts: "Sequence[ItemTokens]") -> "ItemTokens":
        """The items of several catalogues, concatenated; all tokens must come from one tokenizer."""
        return ItemTokens(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.types for part in parts]),
            _offsets(np.concatenate([part.lengths for part in parts])),
            parts[0].start,
        )


@dataclass(frozen=True)
class Counts:
    """Counts of tokenizing N items: values cut at the budget, items without any token."""

    cut_values: int = 0
    items_without_tokens: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.cut_values + other.cut_values, self.items_without_tokens + other.items_without_tokens)


class AttributeTokenizer:
    """Tokenizes attributes on all cores, each distinct value once."""

    def __init__(self, form: SentenceForm, tokenizer: Any) -> None:
        self.form = form
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        self._keys = {name: self._encode([name], limit=None)[0] for name in form.attributes}

    @classmethod
    def load(
        cls,
        backbone: str = DEFAULT_ENCODER,
        attributes: Sequence[str] = ("title", "brand", "categories"),
        attribute_tokens: int = 32,
        text_rules: str = "default",
    ) -> Self:
        """An attribute tokenizer from the fast tokenizer of a language model.

        Args:
            backbone: name or folder, as in `find_encoder`.
            attributes: attributes of an item's sentence, in order.
            attribute_tokens: budget of an attribute, its key included.
            text_rules: cleaning of the values.

        Raises:
            SettingsError: this machine has no such backbone, it has no fast tokenizer, or the tokenizer has no first token.
        """
        loaded = fast_tokenizer(find_encoder(backbone))
        start = loaded.cls_token_id if loaded.cls_token_id is not None else loaded.bos_token_id
        if start is None:
            raise SettingsError([f"The tokenizer of {backbone} has no [CLS] or <s> token, which opens every input."])
        tokenizer = loaded.backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        form = SentenceForm(
            backbone=lasting_name(backbone),
            tokenizer_sha256=_sha256(tokenizer),
            vocabulary=1 + max(tokenizer.get_vocab(with_added_tokens=True).values()),  # their numbers may have gaps
            start=start,
            mask=loaded.mask_token_id,
            attributes=list(attributes),
            attribute_tokens=attribute_tokens,
            text_rules=text_rules,
        )
        return cls(form, tokenizer)

    @classmethod
    def of(cls, form: SentenceForm, copy: Path | None = None) -> Self:
        """The tokenizer that made stored tokens, for new items.

        Args:
            form: of the stored tokens.
            copy: file that `save` wrote; without it the backbone must be on this machine.

        Raises:
            SettingsError: the backbone is not on this machine.
            StaleFeaturesError: the backbone on this machine has another tokenizer, or the copy is damaged.
        """
        if copy is not None and copy.is_file():
            from tokenizers import Tokenizer

            source = str(copy)
            try:
                made = cls(form, Tokenizer.from_file(source))
            except Exception as error:  # tokenizers raises no narrower class
                raise StaleFeaturesError(f"{copy} is no tokenizer ({error}). Copy its folder again.") from error
        else:
            source = f"The tokenizer of {form.backbone} here"
            made = cls.load(form.backbone, form.attributes, form.attribute_tokens, form.text_rules)
        found = _sha256(made._tokenizer)
        if found != form.tokenizer_sha256:
            raise StaleFeaturesError(
                f"{source} (SHA-256 {found[:12]}) is not the one that made "
                f"the stored tokens ({form.tokenizer_sha256[:12]}): its ids mean other words. Bring the same folder along, or "
                "tokenize the catalogue again and train on it."
            )
        return made

    def save(self, file: Path) -> None:
        """Write the tokenizer, so that `of` needs no backbone."""
        file.write_text(self._tokenizer.to_str(), encoding="utf-8")

    def tokenize(self, columns: Mapping[str, Sequence[Any]]) -> tuple[ItemTokens, Counts]:
        """Tokens of N items from the values of their attributes.

        Args:
            columns: attribute -> N values: texts, numbers, lists of them, or None. Attributes that are not in the form are
                ignored; attributes of the form that `columns` lacks are empty for all items.

        Raises:
            DataFormatError: a value has another type.
        """
        number = len(next(iter(columns.values()))) if columns else 0
        form, budget = self.form, self.form.attribute_tokens
        starts = np.zeros((number, 2 * len(form.attributes)), np.int64)
        lengths = np.zeros_like(starts)
        pool: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
        filled = cut = 0
        for column, name in enumerate(form.attributes):
            if name not in columns:
                continue
            texts = [value_text(value, name, form.text_rules) for value in columns[name]]
            place: dict[str, int] = {}
            row = np.fromiter((-1 if text is None else place.setdefault(text, len(place)) for text in texts), np.int64)
            values, offsets = self._encode(list(place), limit=budget + 1)  # one more shows that the value is longer
            key = self._keys[name]
            room = max(budget - len(key), 0)
            needed = np.append(np.diff(offsets), 0)[row]
            present = (row >= 0) & (needed > 0) if form.text_rules == "default" else row >= 0
            cut += int((needed > room).sum())
            starts[:, 2 * column], lengths[:, 2 * column] = filled, present * min(len(key), budget)
            starts[:, 2 * column + 1] = filled + len(key) + offsets[row]
            lengths[:, 2 * column + 1] = np.minimum(needed, room)
            pool += [key, values]
            filled += len(key) + len(values)
        offsets = _offsets(lengths.sum(axis=1))
        parts = lengths.ravel()
        source = np.arange(offsets[-1]) + np.repeat(starts.ravel() - (np.cumsum(parts) - parts), parts)
        types = np.repeat(np.tile(np.array([KEY, VALUE], np.uint8), starts.size // 2), parts)
        tokens = ItemTokens(np.concatenate(pool)[source].astype(self.dtype), types, offsets, form.start)
        return tokens, Counts(cut, int((tokens.lengths == 0).sum()))

    @property
    def key_lengths(self) -> dict[str, int]:
        """Number of tokens of each attribute's name; they count against its budget."""
        return {name: len(key) for name, key in self._keys.items()}

    @property
    def dtype(self) -> npt.DTypeLike:
        """The smallest integer type that holds every id."""
        return np.uint16 if self.form.vocabulary <= 1 << 16 else np.int32

    def continues_a_word(self) -> npt.NDArray[np.bool_]:
        """[vocabulary] whether a token continues the word of the previous token, if both belong to one value.

        WordPiece marks tokens that continue a word ("##ing"). Byte-level and sentence-piece tokenizers mark tokens that begin a
        word, by the space before it; there punctuation begins a new word. If a tokenizer marks neither, each token is a word.
        """
        continues = np.zeros(self.form.vocabulary, bool)
        words = self._tokenizer.get_vocab(with_added_tokens=False)
        prefix = getattr(self._tokenizer.model, "continuing_subword_prefix", None)
        spaced = any(word.startswith(SPACES) for word in words)
        begins = (*SPACES, *string.punctuation)
        for word, number in words.items():
            if prefix:
                continues[number] = word.startswith(prefix)
            elif spaced:
                continues[number] = not word.startswith(begins) or BYTE.fullmatch(word) is not None
        for number in self._tokenizer.get_added_tokens_decoder():
            continues[number] = False
        return continues

    def _encode(self, texts: list[str], limit: int | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Flat ids of the texts, at most `limit` each, and their offsets."""
        ids, lengths = [np.empty(0, np.int64)], []
        for batch in _batches(texts):
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            rows = [encoding.ids[:limit] for encoding in encodings]
            ids.append(np.fromiter(itertools.chain.from_iterable(rows), np.int64))
            lengths += [len(row) for row in rows]
        return np.concatenate(ids), _offsets(lengths)


def _sha256(tokenizer: Any) -> str:
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def _batches(texts: list[str]) -> Iterator[list[str]]:
    """Batches of texts in order, about `LETTERS_A_BATCH` characters each, so that long texts do not take more memory."""
    first = letters = 0
    for end, text in enumerate(texts, 1):
        letters += len(text)
        if letters >= LETTERS_A_BATCH or end == len(texts):
            yield texts[first:end]
            first, letters = end, 0


def value_text(value: Any, name: str, rules: str) -> str | None:
    """An attribute's value as a cleaned string; None = the item has no value.

    >>> value_text("Drill &amp; bits.", "title", "default")
    'Drill & bits'
    >>> value_text(["Tools", 3], "categories", "default")
    'Tools 3'
    >>> value_text("", "brand", "default") is None, value_text("", "brand", "released")
    (True, '')

    Raises:
        DataFormatError: the value is not text, a number or a list of them.
    """
    text = written_out(value, f"The attribute {name!r} of an item")
    if text is None:
        return None
    if rules == "released":
        return text.replace(LIST_SEPARATOR, " ")
    return clean_text(text).removesuffix(".") or None


def _offsets(lengths: "npt.ArrayLike") -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
