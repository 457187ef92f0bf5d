"""What runs in Spark's workers: parts of source files to rows of columns, in the order of the file.

Spark cuts the files into parts and hands them out; the rows of a part are made by DuckDB in the worker, with the same
form of the file and the same expressions as on one machine. So both engines agree on every quote, date, number and
JSON value by construction: Spark's own parsers differ from DuckDB's in such things ("2024-05" is a timestamp, "1d" a
number, a stray quote part of the value).
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from linguarec.data.source_files import TextForm

# Beside the columns of the rows: the file, the part of it (its first byte), the row within the part.
PLACE = pa.schema([("_file", pa.string()), ("_part", pa.int64()), ("_row", pa.int64())])
CUT_APART = -1  # as `_row`: the part cannot be read by itself
ROWS = "source_rows"  # the view that the query of a worker reads
MARK = "rows that cannot be read: "

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class TextReader:
    """Reads lines of text. The `query` in SQL of DuckDB computes rows of `schema` from the view `ROWS`.

    `whole`: every file is one part, so that what is wrong with a part is wrong with the file, whose lines are then counted.
    """

    form: TextForm
    query: str
    schema: pa.Schema
    whole: bool

    def __call__(self, batches: Batches) -> Batches:
        """From batches of (line in bytes, file, part) to rows of `schema` and `PLACE`."""
        with tempfile.TemporaryDirectory(prefix="linguarec-") as folder, _database() as connection:
            file = Path(folder, "part")
            file.write_bytes(b"")
            self.form.open(connection, [str(file)], ROWS)
            part: _Part | None = None
            for batch in batches:
                for (source, begin), lines in _runs(batch):
                    if part is None or (part.source, part.begin) != (source, begin):
                        if part is not None:
                            yield from part.end()
                        part = _Part(self, connection, file, source, begin)
                    yield from part.add(lines)
            if part is not None:
                yield from part.end()


class _Part:
    """One part of a file, read in pieces that end outside quotes."""

    def __init__(self, reader: TextReader, connection: Any, file: Path, source: str, begin: int) -> None:
        self.reader, self.connection, self.file = reader, connection, file
        self.source, self.begin = source, begin
        self.header = reader.form.header_lines if begin == 0 else 0
        self.left: list[bytes] = []  # lines of a row that is not complete
        self.lines = self.rows = 0
        self.open_quote = False
        self.problem: RuntimeError | None = None

    def add(self, lines: pa.Array) -> Batches:
        """The rows that are complete with these lines."""
        quote = self.reader.form.quote
        if not quote:
            yield from self._read(lines.to_pylist())
            return
        within = np.cumsum(pc.count_substring(lines, quote.encode()).to_numpy()) % 2 != self.open_quote
        complete = np.flatnonzero(~within)
        self.open_quote = bool(within[-1])
        stop = int(complete[-1]) + 1 if len(complete) else 0
        values = lines.to_pylist()
        if stop:
            yield from self._read([*self.left, *values[:stop]])
            self.left = []
        self.left += values[stop:]

    def end(self) -> Batches:
        """The last rows, or the sign that the part cannot be read alone: it begins or ends within quotes, or is malformed."""
        if not self.reader.whole and (self.open_quote or self.problem is not None):
            nothing = pa.RecordBatch.from_pylist([{}], schema=self.reader.schema)
            yield _with_place(nothing, self.source, self.begin, np.array([CUT_APART]))
            return
        if self.left:
            yield from self._read(self.left)
        if self.problem is not None:
            raise self.problem

    def _read(self, lines: list[bytes]) -> Batches:
        header, self.header = self.header, 0
        before, self.lines = self.lines, self.lines + len(lines)
        if self.problem is not None:
            return
        # DuckDB takes the first line for the header in every piece.
        # All lines of a piece end alike, also those that are added and a last one without a break.
        carriage = b"\r" if self._ends_in_carriage_return(lines) else b""
        names = [b"-" + carriage] * self.reader.form.header_lines if not header else []
        last = b"\n" if lines[-1].endswith(b"\r") else carriage + b"\n"
        self.file.write_bytes(b"\n".join([*names, *lines]) + last)
        try:
            rows = self.connection.con.sql(self.reader.query).to_arrow_table()
        except _errors() as error:
            shift = before - len(names)
            self.problem = _unreadable(error, self.file, self.source, shift)
            return
        first, self.rows = self.rows, self.rows + len(rows)
        for batch in _fitting(rows, self.reader.schema).to_batches():
            yield _with_place(batch, self.source, self.begin, np.arange(first, first + len(batch)))
            first += len(batch)

    def _ends_in_carriage_return(self, lines: list[bytes]) -> bool:
        """Whether the rows end in CRLF; a first line with an odd number of quotes ends within a value."""
        quote = self.reader.form.quote.encode()
        ends_a_row = not quote or lines[0].count(quote) % 2 == 0
        return lines[-1].endswith(b"\r") or (ends_a_row and lines[0].endswith(b"\r"))


@dataclass(frozen=True)
class ParquetReader:
    """Computes rows of `schema` by a `query` from the columns that Spark has read."""

    query: str
    schema: pa.Schema

    def __call__(self, batches: Batches) -> Batches:
        """From batches of columns and `PLACE` to rows of `schema` and `PLACE`."""
        with _database() as connection:
            for batch in batches:
                columns = [name for name in batch.schema.names if name not in PLACE.names]
                connection.con.register(ROWS, pa.Table.from_batches([batch]).select(columns))
                rows = connection.con.sql(self.query).to_arrow_table()
                place = pa.Table.from_batches([batch]).select(PLACE.names)
                found = _fitting(rows, self.schema)
                for name in PLACE.names:
                    found = found.append_column(name, place[name])
                yield from found.combine_chunks().to_batches()


def _with_place(batch: pa.RecordBatch, source: str, begin: int, rows: Any) -> pa.RecordBatch:
    place = [pa.array([source] * len(batch)), pa.array([begin] * len(batch), pa.int64()), pa.array(rows, pa.int64())]
    return pa.RecordBatch.from_arrays([*batch.columns, *place], schema=pa.schema([*batch.schema, *PLACE]))


def _runs(batch: pa.RecordBatch) -> Iterator[tuple[tuple[str, int], pa.Array]]:
    """Neighbouring lines of one part."""
    lines, files, parts = batch.columns
    keys = list(zip(files.to_pylist(), parts.to_pylist(), strict=True))
    start = 0
    for place in range(1, len(keys) + 1):
        if place == len(keys) or keys[place] != keys[start]:
            if place > start:
                yield keys[start], lines.slice(start, place - start)
            start = place


def _fitting(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with the types of `schema`. Spark has no unsigned numbers: those of 64 bits (hashes) keep their bits."""
    columns = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        column = rows[name].combine_chunks()
        columns.append(column.view(pa.int64()) if column.type == pa.uint64() else column.cast(kind))
    return pa.table(columns, schema=schema)


class _database:
    """A connection to a DuckDB of the worker's own, of one thread and in UTC, that knows our functions in Python."""

    def __enter__(self) -> Any:
        import ibis

        from linguarec.data.readers import functions

        self.connection = ibis.duckdb.connect(threads=1)
        self.connection.con.execute(
            "SET enable_external_file_cache = false"
        )  # the file of a part is written again and again
        functions.register(self.connection)
        return self.connection

    def __exit__(self, *_: object) -> None:
        self.connection.disconnect()


def _errors() -> type[Exception]:
    import duckdb

    found: type[Exception] = duckdb.Error
    return found


def _unreadable(error: Exception, file: Path, source: str, shift: int) -> RuntimeError:
    """An error that `problem_in` finds in what Spark says of a failed task; `shift` lines of the part came before."""
    import re

    message = str(error).replace(str(file), shown_path(source))
    for form in (r"(Line: )(\d+)", r"(in line )(\d+)"):
        message = re.sub(form, lambda found: f"{found[1]}{int(found[2]) + shift}", message)
    return RuntimeError(f"{MARK}{json.dumps(message)}")


def problem_in(text: str) -> str | None:
    """DuckDB's message in the text of an error of Spark's; None: it has another cause."""
    if MARK not in text:
        return None
    found, _ = json.JSONDecoder().raw_decode(text[text.index(MARK) + len(MARK) :])
    return str(found)


def shown_path(source: str) -> str:
    """A path as the user writes it, from the URI that Spark makes of it."""
    plain = unquote(source)
    return plain[plain.index(":") + 1 :].replace("//", "", 1) if plain.startswith("file:") else plain


Reader = Callable[[Batches], Batches]
