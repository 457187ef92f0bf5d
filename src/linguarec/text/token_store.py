"""Item tokens on disk: `ids.npy`, `types.npy`, `offsets.npy`, `tokens.json` (form and origin), and the tokenizer's file."""

import csv
import io
import shlex
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linguarec.arrays import save_array
from linguarec.errors import DataFormatError, StaleFeaturesError
from linguarec.files import write_json, writing_file
from linguarec.portable import located, portable
from linguarec.records import record_of
from linguarec.regular import check_regular
from linguarec.stored import AGAIN, read_array, read_json, read_record
from linguarec.text.attributes import KEY, VALUE, AttributeTokenizer, Counts, ItemTokens, SentenceForm

INFO_FILE = "tokens.json"
TOKENIZER_FILE = "tokenizer.json"
FORMAT_VERSION = 1
NO_LONGER_COUNTED = ("converted_values",)  # counts in folders of earlier versions


@dataclass(frozen=True)
class StoredTokens:
    """Tokens of a whole catalogue, memory-mapped, with their form and the counts of the tokenization.

    `tokenizer`: file of the tokenizer that made them; None for folders of earlier versions.
    """

    tokens: ItemTokens
    form: SentenceForm
    counts: Counts
    tokenizer: Path


def write_tokens(
    folder: Path,
    tokenizer: AttributeTokenizer,
    pieces: Iterable[tuple[ItemTokens, Counts]],
    fingerprint: str,
    advance: Callable[[int], None] = lambda amount: None,
) -> Counts:
    """Write the tokens of a catalogue into `folder`, piece by piece; one piece is in memory at a time.

    Args:
        folder: folder for the files; it must exist.
        tokenizer: made the tokens; its form is stored.
        pieces: tokens of some items, in row order, as `AttributeTokenizer.tokenize` makes them.
        fingerprint: of the catalogue.
        advance: called after each piece with its number of items.
    """
    counts = Counts()
    lengths = [np.zeros(1, np.int64)]
    with (
        _growing_npy(folder / "ids.npy", tokenizer.dtype) as append_ids,
        _growing_npy(folder / "types.npy", np.uint8) as append_types,
    ):
        for tokens, of_piece in pieces:
            counts += of_piece
            append_ids(tokens.ids)
            append_types(tokens.types)
            lengths.append(tokens.lengths)
            advance(len(tokens))
    save_array(folder / "offsets.npy", np.cumsum(np.concatenate(lengths)))
    tokenizer.save(folder / TOKENIZER_FILE)
    _write_info(folder, tokenizer.form, counts, fingerprint)
    return counts


def save_tokens(folder: Path, tokens: ItemTokens, form: SentenceForm, fingerprint: str) -> None:
    """Write tokens that are in memory, in the format of `write_tokens`."""
    for name in ("ids", "types", "offsets"):
        save_array(folder / f"{name}.npy", getattr(tokens, name))
    counts = Counts(items_without_tokens=int((tokens.lengths == 0).sum()))
    _write_info(folder, form, counts, fingerprint)


def copy_tokenizer(tokenizer: Path | None, folder: Path) -> None:
    """Copy a tokenizer, if there is one, into a run's folder, so that the run can read new items without the backbone."""
    target = folder / TOKENIZER_FILE
    if tokenizer is not None and tokenizer.is_file() and not (target.exists() and target.samefile(tokenizer)):
        with writing_file(target) as temporary:
            shutil.copyfile(tokenizer, temporary)


def read_form(file: Path) -> SentenceForm:
    """Read a form from its own JSON file.

    Raises:
        DataFormatError: the file holds no form.
    """
    form = read_record(SentenceForm, file, "how items become tokens", DataFormatError, AGAIN)
    return replace(form, backbone=located(form.backbone, file.parent))


def write_form(file: Path, form: SentenceForm) -> None:
    """Write a form into a JSON file of its own; the path of a backbone becomes relative to that of `file`."""
    write_json(file, _portable_form(form, file.parent))


def tokenize_command(
    data: Path | str,
    form: SentenceForm | None,
    known: Collection[str] | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> str:
    """The full command that makes tokens of this form, for messages; its text rules are those of the prepared folder.

    >>> form = SentenceForm("path/to/roberta", "0", 9, 0, None, ["title", "brand"], 16, "default")
    >>> tokenize_command("data/shop", form)
    '`linguarec tokenize data/shop --backbone path/to/roberta --attributes title,brand --attribute-tokens 16`'
    >>> tokenize_command("shop", form, known=["title"], name="short", overwrite=True)
    '`linguarec tokenize shop --backbone path/to/roberta --attributes title --attribute-tokens 16 --name short --overwrite`'

    Args:
        data: the prepared folder, or a placeholder for it.
        form: of the tokens; None = not known, for example if its file cannot be read.
        known: attributes of the folder; others are left out of the command. None = the folder has all.
        name: of the stored tokens; None = the default name of the backbone.
        overwrite: whether the command replaces tokens of that name.
    """
    words = ["linguarec", "tokenize", str(data), "--backbone", "BACKBONE" if form is None else form.backbone]
    if form is not None:
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(
            [attribute for attribute in form.attributes if known is None or attribute in known]
        )
        words += ["--attributes", row.getvalue()] if row.getvalue() else []
        words += ["--attribute-tokens", str(form.attribute_tokens)]
    words += ["--name", name] if name is not None else []
    words += ["--overwrite"] if overwrite else []
    return f"`{shlex.join(words)}`"


def open_tokens(
    folder: Path,
    fingerprint: str,
    again: Callable[[SentenceForm | None], str] = lambda form: "Copy the folder again, or make it anew.",
) -> StoredTokens:
    """The tokens in `folder`, for the catalogue with this fingerprint.

    Args:
        folder: that `write_tokens` or `save_tokens` wrote.
        fingerprint: of the catalogue.
        again: returns a sentence that says how to restore the tokens, given their form, or None if it cannot be read.

    Raises:
        DataFormatError: there are no tokens, or a file is damaged.
        StaleFeaturesError: they were made from another catalogue.
    """
    file = folder / INFO_FILE
    check_regular(file, DataFormatError)
    if not file.is_file():
        known = ", ".join(sorted(entry.parent.name for entry in folder.parent.glob(f"*/{INFO_FILE}"))) or "none"
        raise DataFormatError(f"There are no item tokens {folder}; tokens there: {known}. {again(None)}")
    form = None
    try:
        content = read_json(file, DataFormatError, "")
        version, found = content.pop("format_version"), content.pop("fingerprint")
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version!r}, this linguarec reads {FORMAT_VERSION}")
        told = {key: n for key, n in content.pop("counts").items() if key not in NO_LONGER_COUNTED}
        counts = record_of(Counts, told)
        form = record_of(SentenceForm, content)
        form = replace(form, backbone=located(form.backbone, folder))
        ids = read_array(folder / "ids.npy", DataFormatError, "", True, np.integer, (None,))
        types = read_array(folder / "types.npy", DataFormatError, "", True, np.uint8, (len(ids),))
        offsets = read_array(folder / "offsets.npy", DataFormatError, "", False, np.int64, (None,))
        if not len(offsets) or offsets[0] or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets.npy: expected numbers that rise from 0 to {len(ids)}, the number of ids")
        if len(ids) and not 0 <= ids.min() <= ids.max() < form.vocabulary:
            raise ValueError(f"ids.npy: from {ids.min()} to {ids.max()}, the tokenizer has {form.vocabulary} tokens")
        if len(types) and not KEY <= types.min() <= types.max() <= VALUE:
            raise ValueError(f"types.npy: from {types.min()} to {types.max()}, expected {KEY} or {VALUE}")
        if not 0 <= form.start < form.vocabulary:
            raise ValueError(f"its start is {form.start}, the tokenizer has {form.vocabulary} tokens")
    except (ValueError, KeyError, TypeError, AttributeError, DataFormatError) as error:
        raise DataFormatError(
            f"{folder} does not hold item tokens ({str(error).rstrip('. ')}). {again(form)}"
        ) from error
    if found != fingerprint:
        raise StaleFeaturesError(f"{folder} was made from another catalogue than the folder has now. {again(form)}")
    return StoredTokens(ItemTokens(ids, types, offsets, form.start), form, counts, folder / TOKENIZER_FILE)


def _write_info(folder: Path, form: SentenceForm, counts: Counts, fingerprint: str) -> None:
    origin = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint}
    write_json(folder / INFO_FILE, {**origin, **_portable_form(form, folder), "counts": asdict(counts)})


def _portable_form(form: SentenceForm, folder: Path) -> dict[str, Any]:
    return asdict(replace(form, backbone=portable(form.backbone, folder)))


@contextmanager
def _growing_npy(path: Path, dtype: npt.DTypeLike) -> Iterator[Callable[[npt.NDArray[Any]], None]]:
    """Write a one-dimensional array whose length is known only at the end; yields the function that appends to it.

    NumPy pads the header so that the first axis can grow without moving the data.
    """
    kind = np.dtype(dtype)
    written = 0

    def header(length: int) -> dict[str, Any]:
        return {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (length,)}

    def append(piece: npt.NDArray[Any]) -> None:
        nonlocal written
        file.write(np.ascontiguousarray(piece, kind).data)
        written += len(piece)

    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header(0))
        begin = file.tell()
        yield append
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header(written))
        assert file.tell() == begin
