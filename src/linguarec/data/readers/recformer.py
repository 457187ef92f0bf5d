"""The JSON files that the released Recformer fine-tunes on.

`smap.json` and `umap.json`: raw id -> number of each item and user. `train.json`, `val.json`, `test.json`: user number
-> item numbers, oldest first; val and test hold the one before the last and the last item of users with three and more,
others only train. `meta_data.json`: raw item id -> attributes, for all items of the metadata.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from linguarec.data.attribute_names import attribute_names
from linguarec.data.folder import Content, sequences_in_pieces
from linguarec.data.ragged import Ragged
from linguarec.errors import DataFormatError, quoted
from linguarec.values import written_out

PARTS = ("train", "val", "test")


def content(folder: Path, make_text: Callable[[Sequence[str | None]], str]) -> Content:
    """The content of a prepared folder from the JSON files in `folder`; `make_text` joins an item's attribute values.

    Attributes are numbered in the order in which the metadata first name them. Metadata of items that `smap.json` lacks
    are left out and counted.

    Raises:
        DataFormatError: a file is missing or malformed, numbers are not dense, or the parts of a user do not fit
        together.
    """
    raw_items = _by_number(folder / "smap.json")
    raw_users = _by_number(folder / "umap.json")
    sequences = _sequences(folder, len(raw_users), len(raw_items))
    file = folder / "meta_data.json"
    metadata = _read(file)
    names: dict[str, None] = {}
    rows: list[dict[str, str | None]] = []
    converted = 0
    for raw_id in raw_items:
        attributes = metadata.get(raw_id, {})
        if not isinstance(attributes, dict):
            raise DataFormatError(
                f"{file}: item {quoted(raw_id)} has {quoted(attributes)}; expected its attributes by name, as in "
                '{"title": "...", "brand": "..."}.'
            )
        names |= dict.fromkeys(attributes)
        converted += sum(not isinstance(value, str | None) for value in attributes.values())
        where = f"of item {quoted(raw_id)}"
        rows.append(
            {
                name: written_out(value, f"{file}: the attribute {quoted(name)} {where}")
                for name, value in attributes.items()
            }
        )
    columns = attribute_names(names, file)
    values = [[row.get(name) for name in names] for row in rows]
    texts = [make_text(row) for row in values]
    table = pa.table(
        {
            "raw_id": pa.array(raw_items, pa.string()),
            **{column: pa.array([row[k] for row in values], pa.string()) for k, column in enumerate(columns)},
            "text": pa.array(texts, pa.string()),
        }
    )
    return Content(
        items=[table],
        attributes=columns,
        users=[pa.array(raw_users, pa.string())],
        offsets=sequences.offsets,
        interactions=sequences_in_pieces(sequences),
        report={
            "items_without_text": sum(not text.strip() for text in texts),
            "items_without_metadata": sum(raw_id not in metadata for raw_id in raw_items),
            "metadata_of_unknown_items": len(metadata.keys() - set(raw_items)),
            "attributes_that_were_no_text": converted,
        },
    )


def _sequences(folder: Path, users: int, items: int) -> Ragged:
    """The whole sequence of each user: train, then val, then test."""
    parts = {part: _read(folder / f"{part}.json") for part in PARTS}
    sequences = []
    for user in range(users):
        train, val, test = (
            _item_numbers(parts[part].pop(str(user), []), folder / f"{part}.json", user, items) for part in PARTS
        )
        whole = [*train, *val, *test]
        expected = (1, 1) if len(whole) >= 3 else (0, 0)
        if (len(val), len(test)) != expected:
            raise DataFormatError(
                f"{folder}: user {user} has {len(train)} items in train.json, {len(val)} in val.json, {len(test)} in "
                "test.json; expected one each in val and test from three items on, and none before."
            )
        sequences.append(whole)
    for part, rest in parts.items():
        if rest:
            raise DataFormatError(
                f"{folder}/{part}.json: user {quoted(next(iter(rest)))} is not a number of umap.json."
            )
    return Ragged.from_lists(sequences)


def _item_numbers(value: Any, file: Path, user: int, items: int) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < items for item in value):
        raise DataFormatError(
            f"{file}: user {user} has {quoted(value)}; expected a list of item numbers of smap.json, 0 to {items - 1}."
        )
    return value


def _by_number(file: Path) -> list[str]:
    """Raw ids in the order of their numbers."""
    numbers = _read(file)
    if not numbers:
        raise DataFormatError(f"{file} is empty; expected a number for each raw id.")
    if sorted(numbers.values(), key=str) != sorted(range(len(numbers)), key=str):
        raise DataFormatError(f"{file}: the numbers must run from 0 to {len(numbers) - 1}, each once.")
    return sorted(numbers, key=numbers.__getitem__)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataFormatError(
            f"{file} is missing; expected train.json, val.json, test.json, smap.json, umap.json and meta_data.json in one "
            "folder."
        )
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataFormatError(f"{file} is not JSON ({error}); it is cut short or no text file in UTF-8.") from error
    if not isinstance(value, dict):
        raise DataFormatError(f"{file} holds a {type(value).__name__}; expected a JSON object.")
    return value
