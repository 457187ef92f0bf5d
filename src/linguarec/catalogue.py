"""The items of a trained run: raw ids, attributes, texts; items can be added and removed."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from linguarec.data.ragged import Ragged
from linguarec.errors import DataFormatError, SettingsError, UnknownItemError
from linguarec.text.cleaning import TextRules, item_text
from linguarec.values import written_out

_OWN_COLUMNS = ("raw_id", "text", "row", "removed")  # every other column is an attribute
_COMPARABLE_IDS = 50_000  # beyond that many, looking for ids that are spelt alike takes seconds

Items: TypeAlias = "pa.Table | Sequence[Mapping[str, Any]]"


@dataclass(frozen=True)
class Catalogue:
    """The items of a run, in the order of its keys.

    `table`: `raw_id`, the attribute columns in the order in which texts are made of them, `text`, `row` (int32 row of
    the model's ID embeddings, -1 = added later) and `removed` (bool: readable in histories, never recommended). An id
    that was removed and added again has two entries; the later one counts. `text_rules`: how texts were cleaned.
    """

    table: pa.Table
    text_rules: TextRules

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"Catalogue({len(self):,} items, {int(self.removed.sum()):,} of them removed)"

    @classmethod
    def of(cls, items: pa.Table, attributes: Sequence[str], text_rules: TextRules) -> "Catalogue":
        """The items that a model was trained on: `items` has `raw_id`, the attributes and `text`, in row order."""
        table = items.select(["raw_id", *attributes, "text"])
        table = table.append_column("row", pa.array(np.arange(len(table), dtype=np.int32)))
        return cls(table.append_column("removed", pa.array(np.zeros(len(table), dtype=bool))), text_rules)

    @cached_property
    def raw_ids(self) -> list[str]:
        """Raw id of each entry."""
        ids: list[str] = self.table["raw_id"].to_pylist()
        return ids

    @cached_property
    def position(self) -> dict[str, int]:
        """Entry of each raw id."""
        return {raw_id: index for index, raw_id in enumerate(self.raw_ids)}

    @cached_property
    def removed(self) -> npt.NDArray[np.bool_]:
        """[N] true for items that are never recommended."""
        return np.array(self.table["removed"].to_pylist(), dtype=bool)

    @property
    def attributes(self) -> list[str]:
        """Names of the attribute columns, in order."""
        return [name for name in self.table.column_names if name not in _OWN_COLUMNS]

    def text(self, entry: int) -> str:
        """Cleaned text of an entry."""
        return str(self.table["text"][entry].as_py())

    def title(self, entry: int) -> str:
        """What to call an entry: its `title`, else the first 80 characters of its text."""
        title = self.table["title"][entry].as_py() if "title" in self.attributes else None
        return str(title) if title else self.text(entry)[:80]

    def rows(self, histories: Sequence[Sequence[str]], skip_unknown: bool = False) -> tuple[Ragged, list[str]]:
        """Entries of raw ids, and the unknown ids among them.

        Raises:
            UnknownItemError: an id is not in the catalogue (and is not to be skipped), or a history has none that is.
            SettingsError: a history is empty, or no list of ids.
        """
        given = list(histories)
        if any(isinstance(history, str) for history in given):
            raise SettingsError(["expected a list of histories, each a list of item ids; found a string for a history"])
        histories = [list(history) for history in given]
        position = self.position
        unknown = list(dict.fromkeys(raw_id for history in histories for raw_id in history if raw_id not in position))
        if unknown and not skip_unknown:
            raise UnknownItemError(self._unknown_message(unknown))
        found = [[position[raw_id] for raw_id in history if raw_id in position] for history in histories]
        for number, (history, entries) in enumerate(zip(histories, found, strict=True), start=1):
            if not history:
                raise SettingsError([f"history {number} is empty; give at least one item id"])
            if not entries:
                raise UnknownItemError(
                    f"History {number} has no known item: none of its {len(history)} is in the catalogue of "
                    f"{len(self):,} items."
                )
        return Ragged.from_lists(found), unknown

    def new_entries(self, items: Items) -> pa.Table:
        """New items as rows of the catalogue's table, checked and with their texts cleaned.

        Raises:
            DataFormatError: an id is missing, there twice or in the catalogue already; a column is unknown; an item has
                neither text nor attributes.
        """
        given = items.to_pylist() if isinstance(items, pa.Table) else list(items)
        if isinstance(items, Mapping) or any(not isinstance(item, Mapping) for item in given):
            raise DataFormatError(
                "New items are a list of mappings, one an item, or an Arrow table; of a data frame take to_dict('records')."
            )
        entries: dict[str, dict[str, Any]] = {}
        for number, item in enumerate(given, start=1):
            raw_id = written_out(item.get("raw_id"), f"New item {number}: its 'raw_id'") or ""
            if "raw_id" not in item:
                raise DataFormatError(f"New item {number} has no `raw_id`; it has: {', '.join(item) or 'nothing'}.")
            if not raw_id.strip():
                raise DataFormatError(f"New item {number}: its `raw_id` is empty.")
            if raw_id in entries:
                raise DataFormatError(f"New item {number}: the raw_id {raw_id!r} is there twice.")
            if raw_id in self.position and not self.removed[self.position[raw_id]]:
                raise DataFormatError(
                    f"New item {number}: {raw_id!r} is in the catalogue already; leave it out, or call remove_items first."
                )
            entries[raw_id] = self._entry(f"New item {number} ({raw_id!r})", raw_id, item)
        return pa.Table.from_pylist(list(entries.values()), schema=self.table.schema)

    def with_added(self, entries: pa.Table) -> "Catalogue":
        """This catalogue and the `new_entries` behind it."""
        return Catalogue(pa.concat_tables([self.table, entries]), self.text_rules)

    def with_removed(self, raw_ids: Sequence[str]) -> "Catalogue":
        """This catalogue with these items marked as removed.

        Raises:
            UnknownItemError: an id is not in the catalogue.
        """
        if isinstance(raw_ids, str):
            raise SettingsError([f"expected a list of item ids; found the string {raw_ids!r}"])
        removed = self.removed.copy()
        if len(raw_ids):
            removed[self.rows([raw_ids])[0].values] = True
        column = self.table.column_names.index("removed")
        return Catalogue(self.table.set_column(column, "removed", pa.array(removed)), self.text_rules)

    def _entry(self, where: str, raw_id: str, item: Mapping[str, Any]) -> dict[str, Any]:
        known = ["raw_id", *self.attributes, "text"]
        strange = [name for name in item if name not in known]
        if strange:
            raise DataFormatError(f"{where} has the column {strange[0]!r}; this catalogue knows: {', '.join(known)}.")
        values = {name: written_out(item.get(name), f"{where}: its {name!r}") for name in self.attributes}
        text = written_out(item.get("text"), f"{where}: its 'text'")
        parts = list(values.values()) if text is None else [text]
        if all(part is None for part in parts):
            raise DataFormatError(f"{where} cannot be read: it has none of {', '.join(known[1:])}.")
        cleaned = item_text(parts, self.text_rules).text
        if not cleaned.strip():
            raise DataFormatError(f"{where} cannot be read: cleaning leaves nothing of its text.")
        return {"raw_id": raw_id, **values, "text": cleaned, "row": -1, "removed": False}

    def _unknown_message(self, unknown: list[str]) -> str:
        if not len(self):
            listed = ", ".join(map(repr, unknown[:5]))
            return f"The model has no catalogue, so it knows no {listed}; add items (--items), or fine-tune it first."
        named = []
        for raw_id in unknown[:5]:
            alike = self.raw_ids
            if len(alike) > _COMPARABLE_IDS:
                alike = [other for other in alike if other[:3] == raw_id[:3]][:_COMPARABLE_IDS]
            near = difflib.get_close_matches(raw_id, alike, n=3, cutoff=0.6)
            named.append(f"{raw_id!r} (near: {', '.join(near)})" if near else repr(raw_id))
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        return (
            f"Not in the catalogue of {len(self):,} items: {', '.join(named)}{more}. "
            "Correct the ids, add the items first, or skip unknown ids (--skip-unknown)."
        )
