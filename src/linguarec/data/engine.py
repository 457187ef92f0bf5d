"""The database of preparation: DuckDB through Ibis. Beyond its memory limit it spills to disk."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from linguarec.data.readers.packing import UNPACKED, is_damaged, is_parquet, packing
from linguarec.errors import DataFormatError, OutputError, SettingsError, quoted

BATCH_ROWS = 1 << 18
LONGEST_REASON = 300  # characters of a message of DuckDB's


class Engine:
    """An Ibis connection and the few operations that preparation needs.

    Tables are explicit and named, and dropped when the next step has read them; nothing is cached implicitly.
    """

    def __init__(self, connection: Backend) -> None:
        self.connection = connection
        self._tables = 0

    def store(self, expression: ir.Table, *consumed: ir.Table) -> ir.Table:
        """Compute `expression` into a new table, then drop the `consumed` tables."""
        self._tables += 1
        name = f"step_{self._tables}"
        stored = self.connection.create_table(name, expression)
        self.drop(*consumed)
        return stored

    def view(self, query: str) -> ir.Table:
        """The result of a query in SQL, computed whenever it is read."""
        self._tables += 1
        name = f"view_{self._tables}"
        self.connection.con.execute(f"CREATE TEMPORARY VIEW {name} AS {query}").fetchall()
        return self.connection.table(name)

    def drop(self, *tables: ir.Table) -> None:
        """Drop stored tables."""
        for table in tables:
            # Not connection.drop_table(): Ibis 12 writes a statement that DuckDB 2.0 does not parse.
            self.connection.con.execute(f"DROP TABLE {table.get_name()}").fetchall()

    def value(self, expression: ir.Scalar) -> Any:
        """One number or string."""
        return self.connection.to_pyarrow(expression).as_py()

    def rows(self, expression: ir.Table) -> list[dict[str, Any]]:
        """A small result as Python rows."""
        rows: list[dict[str, Any]] = self.connection.to_pyarrow(expression).to_pylist()
        return rows

    def stream(self, expression: ir.Table) -> Iterator[pa.RecordBatch]:
        """A large result in pieces, in its order."""
        query = ibis.to_sql(expression, dialect="duckdb")
        yield from self.connection.con.sql(query).to_arrow_reader(BATCH_ROWS)


@contextlib.contextmanager
def open_engine(scratch: Path, memory: str) -> Iterator[Engine]:
    """An engine that keeps its tables and its spill files in `scratch` and at most `memory` ("1500MB") in RAM.

    Raises:
        DataFormatError: a source file is malformed.
        OutputError: the disk is full.
        SettingsError: `memory` is not an amount of memory.
    """
    if not re.fullmatch(r"\d+(\.\d+)?\s*([KMGT]i?B|%)", memory, re.IGNORECASE):
        raise SettingsError([f'--memory is {memory!r}; give a number and a unit, such as "1500MB" or "4GB".'])
    (scratch / "spill").mkdir(exist_ok=True)
    try:
        connection = ibis.duckdb.connect(
            # Tables of a database file would be compressed at every step, three times the processor time of uncompressed
            # ones that spill only when they must.
            ":memory:",
            memory_limit=memory,
            temp_directory=str(scratch / "spill"),
        )
        try:
            yield Engine(connection)
        finally:
            connection.disconnect()
    except duckdb.OutOfMemoryException as error:
        raise OutputError(
            f"The preparation does not fit into {memory} of memory and the free disk space beside the output folder; "
            f"raise --memory or free some space. ({_short(_first_line(error))})"
        ) from error
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException) as error:
        if re.search(r"no space left|disk (is )?full", str(error), re.IGNORECASE):
            raise OutputError(
                f"The disk that holds {scratch.parent.parent} is full; free some space or write elsewhere."
            ) from error
        raise DataFormatError(_explain(str(error), scratch)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _explain(message: str, scratch: Path) -> str:
    """DuckDB's message about a source file, without its class, our copies' folders, and advice that is for SQL users."""
    message = re.sub(rf"{re.escape(str(scratch))}/(?:{UNPACKED}/[0-9a-f]+/)?", "", message)
    message = re.sub(r"^(IO|Invalid Input|Conversion) Error: ", "", message)
    file = re.search(r"(?:file\s*=\s*|file \")([^\"\n]+)", message)
    where = file.group(1).strip() if file else ""
    if Path(where).is_file() and packing(Path(where)) == "gzip" and is_damaged(Path(where)):
        return f"{where} is damaged; fetch it again."
    if found := re.search(r"CSV Error on Line: (\d+)\s*Original Line:(.*?)\n(.*)", message, re.DOTALL):
        line, original, rest = found.groups()
        reason = rest.strip().splitlines()[0]
        if "unicode" in reason.lower() or "utf-8" in reason.lower():
            return (
                f"{where}, near line {line}: a byte sequence is not UTF-8. If the whole file is in another encoding pass "
                "--encoding latin-1; if encodings are mixed, convert the file to UTF-8 first."
            )
        return f"{where}, line {line}: {_short(reason)}: {quoted(original.strip())}. Mend the line, or check the delimiter."
    if found := re.search(r"Malformed JSON in file .*at byte (\d+) in (line|record/value) (\d+): ([^\n.]*)", message):
        byte, kind, after, reason = found.groups()  # DuckDB has begun the next one, and leaves out empty lines
        place, expected = ("line", "one object a line") if kind == "line" else ("object", "one array of objects")
        return (
            f"{where}, near {place} {int(after) - 1}: no JSON ({reason} at byte {byte}); expected {expected}. Mend the "
            f"{place}, or fetch the file again."
        )
    first = _short(_first_line(Exception(message)))
    if "GZIP" in message or "gzip" in message:
        return f"{first}. The file is cut short or damaged; fetch it again."
    if Path(where).is_file() and is_parquet(Path(where)):
        return f"{first}. The file is damaged; fetch it or write it again."
    return first


def _short(line: str) -> str:
    """A line of DuckDB's, which may hold a value of any length."""
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."
