"""A table of items that is opened fast: ids are found by their hash, other columns are read where they are asked for."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linguarec.errors import LinguarecError
from linguarec.regular import check_regular

ROWS_A_GROUP = 16_384  # of a stored table: the texts of so many items are read together
_FEW_ROWS = 32  # so many are read faster one by one

IntArray = npt.NDArray[np.int64]
Error = Callable[[str], LinguarecError]


class StoredItems:
    """N items, of which nothing changes. Calls may come from several threads, without locks: what two of them read at the
    same time is the same.

    Args:
        table: has `raw_id` (an id may occur more than once) and other columns.
    """

    def __init__(self, table: pa.Table) -> None:
        self.schema: pa.Schema = table.schema
        self._ids = _one_array(table["raw_id"])
        self._starts = [0]
        self._kept = {(name, 0): _one_array(table[name]) for name in table.column_names}
        self._read: Callable[[int | None, list[str] | None], pa.Table] = lambda group, columns: table

    @classmethod
    def open(cls, file: Path, error: Error, mend: str) -> "StoredItems":
        """The items in a Parquet file. It is memory-mapped: a file that replaces it later is not seen.

        Args:
            file: with the columns of a table as above.
            error: class of what is raised.
            mend: sentence that says how the file comes back.

        Raises:
            LinguarecError: the file is missing or damaged.
        """
        check_regular(file, error)
        if not file.is_file():
            raise error(f"{file} is missing. {mend}")
        if not file.stat().st_size:
            raise error(f"{file} is empty. {mend}")
        buffer = pa.memory_map(str(file)).read_buffer()

        def read(group: int | None, columns: list[str] | None) -> pa.Table:
            try:
                opened = pq.ParquetFile(pa.BufferReader(buffer))
                table = opened.read(columns) if group is None else opened.read_row_group(group, columns)
                table.validate(full=True)
                return table
            except (pa.ArrowException, OSError, KeyError) as reason:
                raise error(
                    f"{file} is cut short, or not a Parquet file ({str(reason).splitlines()[0]}). {mend}"
                ) from reason

        ids = read(None, ["raw_id"])
        if ids.column_names != ["raw_id"] or ids["raw_id"].type != pa.string() or ids["raw_id"].null_count:
            raise error(f"{file} has no column 'raw_id' of text in every row. {mend}")
        found = cls(ids)
        with pq.ParquetFile(pa.BufferReader(buffer)) as opened:
            found.schema = opened.schema_arrow
            counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        found._starts = np.concatenate([[0], np.cumsum(counts)])[:-1].tolist() if counts else [0]
        found._kept, found._read = {}, read
        return found

    def __len__(self) -> int:
        return len(self._ids)

    def table(self) -> pa.Table:
        """All columns."""
        return self._read(None, None)

    def column(self, name: str) -> pa.Array:
        """All values of a column."""
        return self._ids if name == "raw_id" else _one_array(self._read(None, [name])[name])

    def values(self, name: str, rows: IntArray) -> list[Any]:
        """The values of a column in these rows; their groups of rows are kept in memory from then on."""
        if len(rows) <= _FEW_ROWS:
            return [self.value(name, row) for row in rows.tolist()]
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        found = np.empty(len(rows), dtype=object)
        for group in np.unique(groups).tolist():
            here = groups == group
            places = pa.array(rows[here] - self._starts[group])
            found[here] = self._group(name, group).take(places).to_pylist()
        listed: list[Any] = found.tolist()
        return listed

    def value(self, name: str, row: int) -> Any:
        """As `values`, of one row."""
        group = bisect_right(self._starts, row) - 1
        return self._group(name, group)[row - self._starts[group]].as_py()

    def _group(self, name: str, group: int) -> pa.Array:
        values = self._kept.get((name, group))
        if values is None:
            values = self._kept[name, group] = _one_array(self._read(group, [name])[name])
        return values

    def raw_id(self, row: int) -> str:
        """Raw id of a row."""
        return str(self._ids[row].as_py())

    def raw_ids(self) -> list[str]:
        """Raw id of each row."""
        ids: list[str] = self._ids.to_pylist()
        return ids

    def ids_beginning_with(self, start: str) -> list[str]:
        """Raw ids that begin so."""
        found: list[str] = self._ids.filter(pc.starts_with(self._ids, start)).to_pylist()
        return found

    def find(self, raw_ids: Sequence[str]) -> IntArray:
        """The last row of each raw id, [T]; -1 = it is not there."""
        if not len(self) or not len(raw_ids):
            return np.full(len(raw_ids), -1, dtype=np.int64)
        hashes, order = self._index
        wanted = np.fromiter(map(hash, raw_ids), dtype=np.int64, count=len(raw_ids))
        places = np.searchsorted(hashes, wanted, side="right") - 1
        rows: IntArray = np.where((places >= 0) & (hashes[places] == wanted), order[places], -1)
        candidates = np.flatnonzero(rows >= 0)
        stored = self._ids.take(pa.array(rows[candidates])).to_pylist()
        for number, found in zip(candidates.tolist(), stored, strict=True):
            if found != raw_ids[number]:  # another id has the same hash
                rows[number] = self._last_of(raw_ids[number], int(places[number]))
        return rows

    def _last_of(self, raw_id: str, place: int) -> int:
        hashes, order = self._index
        wanted = hashes[place]
        while place >= 0 and hashes[place] == wanted:
            if self.raw_id(int(order[place])) == raw_id:
                return int(order[place])
            place -= 1
        return -1

    @cached_property
    def _index(self) -> tuple[IntArray, IntArray]:
        """Hashes of the raw ids, ascending, and the row of each; rows of equal hashes ascend.

        A dictionary of a million strings takes five times as long to build, and ten times the memory.
        """
        hashes = np.fromiter(map(hash, self._ids.to_pylist()), dtype=np.int64, count=len(self))
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order


class RawIds(Sequence[str]):
    """Raw ids of a catalogue, as a list, of which nothing is copied."""

    def __init__(self, stored: StoredItems, added: list[str]) -> None:
        self._stored, self._added = stored, added

    def __len__(self) -> int:
        return len(self._stored) + len(self._added)

    @overload
    def __getitem__(self, entry: int) -> str: ...
    @overload
    def __getitem__(self, entry: slice) -> list[str]: ...
    def __getitem__(self, entry: int | slice) -> str | list[str]:
        if isinstance(entry, slice):
            return [self[each] for each in range(*entry.indices(len(self)))]
        if not -len(self) <= entry < len(self):
            raise IndexError(f"entry {entry} of {len(self):,}")
        entry %= len(self)
        return self._stored.raw_id(entry) if entry < len(self._stored) else self._added[entry - len(self._stored)]

    def __iter__(self) -> Iterator[str]:
        yield from self._stored.raw_ids()
        yield from self._added

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RawIds({len(self):,})"


class Positions(Mapping[str, int]):
    """Raw id -> entry, without a dictionary of all ids."""

    def __init__(self, raw_ids: RawIds, find: Callable[[Sequence[str]], IntArray]) -> None:
        self._raw_ids, self._find = raw_ids, find

    def __getitem__(self, raw_id: str) -> int:
        entry = int(self._find([raw_id])[0]) if isinstance(raw_id, str) else -1
        if entry < 0:
            raise KeyError(raw_id)
        return entry

    def __len__(self) -> int:
        return len(set(self._raw_ids))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self._raw_ids))


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    """The values without chunks, which would be searched at every access."""
    return column.combine_chunks()
