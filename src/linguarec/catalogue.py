"""The items of a trained run: raw ids, attributes, texts; items can be added and removed.

Catalogues are immutable: `with_added` and `with_removed` return a new catalogue, which shares unchanged data with the old one.
"""

import difflib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linguarec.columns import NumberColumn, TextColumn, number_of
from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError, UnknownItemError, listed, quoted
from linguarec.files import writing_file
from linguarec.histories import ids_of
from linguarec.stored import AGAIN, columns_problem
from linguarec.stored_items import ROWS_A_GROUP, IntArray, Positions, RawIds, StoredItems
from linguarec.tables import TableLike, as_rows
from linguarec.text.cleaning import TEXT_RULES, TextRules, item_text
from linguarec.values import written_id, written_out

# Every other column is an attribute, of text.
_OWN_COLUMNS = {"raw_id": pa.string(), "text": pa.string(), "row": pa.int32(), "removed": pa.bool_()}
_COMPARABLE_IDS = 50_000  # searching more ids than this for similar spellings takes seconds
_COMPARED_LETTERS = 200  # of an id that is compared with others


class _Added:
    """An append-only list of added items. Existing rows never change, so readers need no lock."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self._lock = threading.Lock()
        self.rows: list[dict[str, Any]] = []
        self.raw_ids: list[str] = []
        self._numbers: dict[str, tuple[int, ...]] = {}  # raw id -> its row numbers, ascending
        self.append(0, list(rows))

    def append(self, first: int, rows: Sequence[dict[str, Any]]) -> bool:
        """Append rows if there are exactly `first` rows; False = another catalogue has already appended rows."""
        with self._lock:
            if len(self.rows) != first:
                return False
            for number, row in enumerate(rows, start=first):
                self.rows.append(row)
                self.raw_ids.append(row["raw_id"])
                self._numbers[row["raw_id"]] = (*self._numbers.get(row["raw_id"], ()), number)
            return True

    def last(self, raw_id: str, count: int) -> int:
        """Number of the last row with this raw id among the first `count` rows; -1 = none."""
        return max((number for number in self._numbers.get(raw_id, ()) if number < count), default=-1)


class _Base:
    """What the catalogues have in common that were derived from one: the items of its table, and what was read of them.

    Two threads that read a column at the same time read the same.
    """

    def __init__(
        self, stored: StoredItems, text_rules: TextRules, numbers: tuple[str, ...], file: Path | None = None
    ) -> None:
        self.stored, self.text_rules, self.numbers = stored, text_rules, numbers
        self._file = file
        self._columns: dict[str, NumberColumn | TextColumn] = {}

    def column(self, name: str) -> NumberColumn | TextColumn:
        """The values of an attribute."""
        if name not in self._columns:
            values = self.stored.column(name)
            try:
                read = NumberColumn.of(values) if name in self.numbers else TextColumn.of(values)
            except ValueError as error:
                raise CheckpointMismatchError(
                    f"{self._file}: in the column {name!r}, which holds numbers, {error}. {AGAIN}"
                ) from error
            self._columns[name] = read
        return self._columns[name]


class Catalogue:
    """The items of a run, in the order of its keys. Thread-safe.

    An id that was removed and added again has two entries, of which lookups return the later one. Removed items are never
    recommended, but may occur in histories.

    Args:
        table: `raw_id`, the attribute columns in the order in which they form the text, `text`, `row` (int32 row of the
            model's ID embeddings, -1 = added later) and `removed` (bool).
        text_rules: name of the text cleaning rules.
        numbers: attributes whose values are all numbers.
    """

    def __init__(self, table: pa.Table, text_rules: TextRules, numbers: Sequence[str] = ()) -> None:
        removed = np.array(table["removed"].to_pylist(), dtype=bool)
        self._set(_Base(StoredItems(table), text_rules, tuple(numbers)), _Added(), 0, removed)

    def _set(self, base: "_Base", added: _Added, num_added: int, removed: npt.NDArray[np.bool_]) -> "Catalogue":
        self.text_rules, self.numbers = base.text_rules, base.numbers
        self.removed = removed  # [N] True = the item is never recommended
        self._base, self._stored, self._added, self._num_added = base, base.stored, added, num_added
        self._added_columns: dict[str, NumberColumn | TextColumn] = {}
        return self

    def __len__(self) -> int:
        return len(self._stored) + self._num_added

    def __repr__(self) -> str:
        return f"Catalogue({len(self):,} items, {int(self.removed.sum()):,} of them removed)"

    @classmethod
    def of(
        cls, items: pa.Table, attributes: Sequence[str], text_rules: TextRules, numbers: Sequence[str] = ()
    ) -> "Catalogue":
        """The catalogue of the items that a model was trained on: `items` has `raw_id`, the attributes and `text`, by row."""
        table = items.select(["raw_id", *attributes, "text"])
        table = table.append_column("row", pa.array(np.arange(len(table), dtype=np.int32)))
        return cls(table.append_column("removed", pa.array(np.zeros(len(table), dtype=bool))), text_rules, numbers)

    # -- the file ------------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, file: Path) -> "Catalogue":
        """Open a stored catalogue. Texts and attributes are read lazily.

        Raises:
            CheckpointMismatchError: the file is missing or damaged.
        """
        stored = StoredItems.open(file, CheckpointMismatchError, AGAIN)
        kinds = {name: _OWN_COLUMNS.get(name, pa.string()) for name in [*_OWN_COLUMNS, *stored.schema.names]}
        if wrong := columns_problem(stored.schema, kinds):
            raise CheckpointMismatchError(f"{file} {wrong}. {AGAIN}")
        rules = (stored.schema.metadata or {}).get(b"text_rules", b"default").decode(errors="replace")
        if rules not in TEXT_RULES:
            raise CheckpointMismatchError(
                f"{file} has texts by the rules {rules!r}, expected one of {listed(TEXT_RULES)}. {AGAIN}"
            )
        numbers = _stored_numbers(stored.schema, file)
        column = stored.column("removed")
        if column.null_count or stored.column("text").null_count:
            raise CheckpointMismatchError(f"{file} has rows without a text or a mark of removal. {AGAIN}")
        removed = np.array(column.to_numpy(zero_copy_only=False), dtype=bool)
        there = stored.column("raw_id").filter(pa.array(~removed))
        if pc.count_distinct(there).as_py() < len(there):
            raise CheckpointMismatchError(f"{file} has a raw id more than once among the items that are there. {AGAIN}")
        base = _Base(stored, cast(TextRules, rules), numbers, file)
        return cls.__new__(cls)._set(base, _Added(), 0, removed)

    def save(self, file: Path) -> None:
        """Write the catalogue atomically, in row groups that can be read independently."""
        metadata = {"text_rules": self.text_rules, "numbers": json.dumps(self.numbers)}
        table = self.table.replace_schema_metadata(metadata)
        with writing_file(file) as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=ROWS_A_GROUP)

    # -- entries -------------------------------------------------------------------------------------------------------

    @property
    def table(self) -> pa.Table:
        """All columns of all entries, as an in-memory table."""
        stored = self._stored.table().replace_schema_metadata(None)
        added = pa.Table.from_pylist(self._added.rows[: self._num_added], schema=stored.schema)
        whole = pa.concat_tables([stored, added])
        return whole.set_column(whole.column_names.index("removed"), "removed", pa.array(self.removed))

    @property
    def raw_ids(self) -> RawIds:
        """Raw id of each entry."""
        return RawIds(self._stored, self._added.raw_ids[: self._num_added])

    @property
    def position(self) -> Positions:
        """Mapping from raw id to entry."""
        return Positions(self.raw_ids, self.find)

    @property
    def attributes(self) -> list[str]:
        """Names of the attribute columns, in order."""
        return [name for name in self._stored.schema.names if name not in _OWN_COLUMNS]

    def columns(self, name: str) -> list[NumberColumn | TextColumn]:
        """The values of an attribute of all entries, in successive parts: those of the file, and those that were added.

        The first are read once and kept by all catalogues that are derived from this one, the others by this one.

        Raises:
            CheckpointMismatchError: a value of an attribute of numbers is none.
        """
        added = self._added_columns.get(name)
        if added is None:
            later = pa.array([row[name] for row in self._added.rows[: self._num_added]], pa.string())
            added = NumberColumn.of(later) if name in self.numbers else TextColumn.of(later)
            self._added_columns[name] = added
        return [self._base.column(name), added]

    def attributes_of(self, entries: IntArray) -> list[dict[str, str | float | None]]:
        """The attributes of many entries, numbers as floats; None = no value."""
        columns: list[list[Any]] = []
        for name in self.attributes:
            values = self.values(name, entries)
            if name in self.numbers:
                numbers = [number_of(value) for value in values]
                columns.append([None if number != number else number for number in numbers])  # NaN: no value
            else:
                columns.append([value or None for value in values])
        return [dict(zip(self.attributes, row, strict=True)) for row in zip(*columns, strict=True)] or [
            {} for _ in entries
        ]

    def find(self, raw_ids: Sequence[str]) -> IntArray:
        """Entry of each raw id, [T]; -1 = not in the catalogue."""
        entries = self._stored.find(raw_ids)
        if self._num_added:
            later = [self._added.last(raw_id, self._num_added) for raw_id in raw_ids]
            of_added = np.array(later, dtype=np.int64)
            entries = np.where(of_added >= 0, of_added + len(self._stored), entries)
        return entries

    def raw_id(self, entry: int) -> str:
        """Raw id of an entry."""
        return self.values("raw_id", np.array([entry]))[0]

    def text(self, entry: int) -> str:
        """Cleaned text of an entry."""
        return self.values("text", np.array([entry]))[0]

    def title(self, entry: int) -> str:
        """Display name of an entry: its `title`, or the first 80 characters of its text if it has none."""
        return self.titles(np.array([entry]))[0]

    def values(self, name: str, entries: IntArray) -> list[str]:
        """The values of a column of many entries, [T]: faster than one by one."""
        if len(entries) and not 0 <= entries.min() <= entries.max() < len(self):
            raise IndexError(f"entries run from {entries.min()} to {entries.max()}, there are {len(self):,}")
        first = len(self._stored)
        if (entries < first).all():
            return self._stored.values(name, entries)
        stored = iter(self._stored.values(name, entries[entries < first]))
        return [next(stored) if entry < first else self._added.rows[entry - first][name] for entry in entries.tolist()]

    def titles(self, entries: IntArray) -> list[str]:
        """`title` of many entries."""
        names = self.values("title", entries) if "title" in self.attributes else [""] * len(entries)
        without = np.flatnonzero([not name for name in names])
        for place, text in zip(without.tolist(), self.values("text", entries[without]), strict=True):
            names[place] = text[:80]
        return names

    def rows(self, histories: Sequence[Sequence[Any]], skip_unknown: bool = False) -> tuple[Ragged, list[str]]:
        """Histories of raw ids as histories of entries, and the unknown ids. Integers are converted to strings.

        Raises:
            UnknownItemError: an id is unknown and `skip_unknown` is False, or a history has no known id.
            SettingsError: a history is empty or is not a list, or an id is neither a string nor an integer.
        """
        listed = [ids_of(history, f"history {number}") for number, history in enumerate(histories, start=1)]
        lengths = np.array([len(history) for history in listed], dtype=np.int64)
        raw_ids = [raw_id for history in listed for raw_id in history]
        entries = self.find(raw_ids)
        known = entries >= 0
        unknown = list(dict.fromkeys(raw_ids[place] for place in np.flatnonzero(~known).tolist()))
        if unknown and not skip_unknown:
            raise UnknownItemError(self._unknown_message(unknown, bool(known.any())))
        if not lengths.all():
            raise SettingsError([f"history {int(np.argmin(lengths)) + 1} is empty; give at least one item id"])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        found = np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])[offsets]
        without = np.flatnonzero(np.diff(found) == 0)
        if len(without):
            raise UnknownItemError(
                f"History {without[0] + 1} has no known item: none of its {lengths[without[0]]} is in the catalogue of "
                f"{len(self):,} items."
            )
        return Ragged(entries[known].astype(np.int32), found), unknown

    def new_entries(self, items: TableLike) -> pa.Table:
        """Check new items, clean their texts and return them as rows of the catalogue's table.

        Raises:
            DataFormatError: `items` is not a table (`linguarec.tables`); an id is missing, duplicated or already in the
                catalogue; a column is unknown; an item has neither text nor attributes.
        """
        entries: dict[str, dict[str, Any]] = {}
        for number, item in enumerate(as_rows(items, "New items", ids=["raw_id"]), start=1):
            raw_id = written_id(item.get("raw_id"), f"New item {number}: its 'raw_id'") or ""
            if "raw_id" not in item:
                raise DataFormatError(
                    f"New item {number} has no `raw_id`; it has: {', '.join(item) or 'nothing'}. Rename the column of the "
                    "item ids to `raw_id`."
                )
            if not raw_id.strip():
                raise DataFormatError(f"New item {number}: its `raw_id` is empty.")
            if raw_id in entries:
                raise DataFormatError(f"New item {number}: the raw_id {raw_id!r} occurs twice.")
            entry = int(self.find([raw_id])[0])
            if entry >= 0 and not self.removed[entry]:
                raise DataFormatError(
                    f"New item {number}: {raw_id!r} is already in the catalogue; leave it out, or call remove_items first."
                )
            entries[raw_id] = self._entry(f"New item {number} ({raw_id!r})", raw_id, item)
        return pa.Table.from_pylist(list(entries.values()), schema=self._stored.schema.remove_metadata())

    def with_added(self, entries: pa.Table) -> "Catalogue":
        """This catalogue with `entries` (of `new_entries`) appended."""
        if len(entries) > len(self):
            return Catalogue(pa.concat_tables([self.table, entries]), self.text_rules, self.numbers)
        rows = entries.to_pylist()
        added = self._added
        if not added.append(self._num_added, rows):  # another catalogue was already derived from this one
            added = _Added([*added.rows[: self._num_added], *rows])
        removed = np.concatenate([self.removed, np.zeros(len(rows), dtype=bool)])
        return Catalogue.__new__(Catalogue)._set(self._base, added, self._num_added + len(rows), removed)

    def with_removed(self, raw_ids: Sequence[str]) -> "Catalogue":
        """This catalogue with these items marked as removed.

        Raises:
            UnknownItemError: an id is not in the catalogue.
        """
        removed = self.removed.copy()
        if ids := ids_of(raw_ids, "raw_ids"):
            removed[self.rows([ids])[0].values] = True
        return Catalogue.__new__(Catalogue)._set(self._base, self._added, self._num_added, removed)

    def _entry(self, where: str, raw_id: str, item: Mapping[str, Any]) -> dict[str, Any]:
        known = ["raw_id", *self.attributes, "text"]
        strange = [name for name in item if name not in known]
        if strange:
            raise DataFormatError(f"{where} has the column {strange[0]!r}; this catalogue knows: {', '.join(known)}.")
        values = {name: written_out(item.get(name), f"{where}: its {name!r}") for name in self.attributes}
        for name in self.numbers:
            if number_of(values[name]) is None:
                raise DataFormatError(
                    f"{where}: its {name!r} is {quoted(values[name])}; all items of this catalogue have a number there. Give a "
                    "number, or leave it out."
                )
        text = written_out(item.get("text"), f"{where}: its 'text'")
        parts = list(values.values()) if text is None else [text]
        if all(part is None for part in parts):
            raise DataFormatError(f"{where} cannot be read: it has none of {', '.join(known[1:])}.")
        cleaned = item_text(parts, self.text_rules).text
        if not cleaned.strip():
            raise DataFormatError(f"{where} cannot be read: its text is empty after cleaning.")
        return {"raw_id": raw_id, **values, "text": cleaned, "row": -1, "removed": False}

    def _unknown_message(self, unknown: list[str], others_known: bool) -> str:
        if not len(self):
            listed = ", ".join(map(repr, unknown[:5]))
            return (
                f"The model has no items yet, so these ids are unknown: {listed}. Add items (--items) or fine-tune it."
            )
        named = []
        for raw_id in unknown[:5]:
            near = difflib.get_close_matches(raw_id[:_COMPARED_LETTERS], self._comparable(raw_id), n=3, cutoff=0.6)
            named.append(f"{quoted(raw_id)} (near: {', '.join(near)})" if near else quoted(raw_id))
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        as_numbers = [raw_id.removesuffix(".0") for raw_id in unknown if raw_id.endswith(".0")]
        as_numbers += [f"{raw_id}.0" for raw_id in unknown if raw_id.isdecimal()]
        there = [raw_id for raw_id in as_numbers if raw_id in self.position]
        cause = (
            f" {there[0]!r} is in it: the ids were read as floating-point numbers; read them as text." if there else ""
        )
        mend = "Correct the ids, add the items first, or skip unknown ids (--skip-unknown)."
        if len(unknown) > 5 and not others_known and not there:
            mend = "None of the ids is known: is this the model of another shop?"
        return f"Not in the catalogue of {len(self):,} items: {', '.join(named)}{more}.{cause} {mend}"

    def _comparable(self, raw_id: str) -> list[str]:
        """Ids to search for similar spellings: all, or in a large catalogue those with the same first three characters."""
        if len(self) <= _COMPARABLE_IDS:
            return list(self.raw_ids)
        added = [other for other in self._added.raw_ids[: self._num_added] if other[:3] == raw_id[:3]]
        return [*self._stored.ids_beginning_with(raw_id[:3]), *added][:_COMPARABLE_IDS]


def _stored_numbers(schema: pa.Schema, file: Path) -> tuple[str, ...]:
    """The attributes of numbers, as a stored catalogue names them; files of earlier versions name none."""
    text = (schema.metadata or {}).get(b"numbers", b"[]")
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name in schema.names for name in names):
        raise CheckpointMismatchError(f"{file} names {quoted(text)} as its attributes of numbers. {AGAIN}")
    return tuple(names)
