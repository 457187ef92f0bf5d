"""DuckDB, the engine of preparation on one machine. Beyond its memory limit it spills to disk."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from linguarec.data.engine import Engine, EngineChoice
from linguarec.data.readers.packing import UNPACKED, is_damaged, is_parquet, packing
from linguarec.data.source_files import SourceFiles, TextForm
from linguarec.errors import DataFormatError, OutputError, SettingsError, quoted

BATCH_ROWS = 1 << 18
LONGEST_REASON = 300  # characters of a message of DuckDB's
_PATH = "path of the file"  # column of the files of a table with partitions
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # of a folder whose rows have no value


class DuckDBEngine(Engine):
    """An Ibis connection to DuckDB."""

    plain_files = False

    def __init__(self, connection: Backend) -> None:
        self.connection = connection
        self._tables = 0

    def text_rows(self, files: SourceFiles, form: TextForm) -> ir.Table:
        """A view of the files."""
        with _reporting(files):
            return form.open(self.connection, _paths(files))

    def parquet_rows(self, files: SourceFiles, columns: Mapping[str, str]) -> ir.Table:
        """A view of the files; a partition's value is text, as its folder is written."""
        # Not connection.read_parquet(): it makes an expression for every column of the file, and there may be 200,000.
        partitions = {name: _partition(name) for name in files.partitions}
        chosen = ", ".join(
            f"{partitions.get(name, _sql_name(name))} AS {_sql_name(key)}" for key, name in columns.items()
        )
        with _reporting(files):
            return self._view(f"SELECT {chosen} FROM {_read_parquet(files)}")

    def first_line(self, address: str) -> str:
        """Read as CSV of one column: no byte that a text may hold parts it."""
        files = SourceFiles.of(address)
        with _reporting(files):
            found = self.connection.con.execute(
                f"SELECT line FROM read_csv({_sql_text(address)}, columns={{'line': 'VARCHAR'}}, auto_detect=false, "
                f"header=false, "
                "delim='\x1f', quote='', escape='') LIMIT 1"
            ).fetchone()
        if found is None or not found[0]:
            raise DataFormatError(f"{address} is empty.")
        return str(found[0])

    def parquet_columns(self, address: str) -> list[str]:
        """As DuckDB describes them."""
        files = SourceFiles.of(address)
        with _reporting(files):
            found = self.connection.con.execute(f"DESCRIBE SELECT * FROM {_read_parquet(files)}").fetchall()
        return [row[0] for row in found]

    def store_rows(self, expression: ir.Table) -> ir.Table:
        """A table of DuckDB keeps the order in which its rows were inserted."""
        return self.store(expression)

    def first_rows(self, expression: ir.Table, number: int) -> list[dict[str, Any]]:
        """DuckDB reads files from their beginning."""
        return self.rows(expression.limit(number))

    def positioned(self, stored: ir.Table) -> ir.Table:
        """The number of a row in a table of DuckDB costs nothing."""
        return stored.mutate(position=stored.rowid())

    def numbered(self, expression: ir.Table, order: str) -> ir.Table:
        """By a window over the whole table."""
        code = ibis.row_number().over(order_by=expression[order]).cast("int32")
        return self.store(expression.mutate(code=code).drop(order))

    def store(self, expression: ir.Table, *consumed: ir.Table) -> ir.Table:
        """Compute `expression` into a new table, then drop the `consumed` tables."""
        self._tables += 1
        name = f"step_{self._tables}"
        stored = self.connection.create_table(name, expression)
        self.drop(*consumed)
        return stored

    def _view(self, query: str) -> ir.Table:
        self._tables += 1
        name = f"view_{self._tables}"
        self.connection.con.execute(f"CREATE TEMPORARY VIEW {name} AS {query}").fetchall()
        return self.connection.table(name)

    def drop(self, *tables: ir.Table) -> None:
        """Drop stored tables."""
        for table in tables:
            # Not connection.drop_table(): Ibis 12 writes a statement that DuckDB 2.0 does not parse.
            self.connection.con.execute(f"DROP TABLE {table.get_name()}").fetchall()

    def rows(self, expression: ir.Table) -> list[dict[str, Any]]:
        """A small result as Python rows."""
        rows: list[dict[str, Any]] = self.connection.to_pyarrow(expression).to_pylist()
        return rows

    def stream(self, expression: ir.Table) -> Iterator[pa.RecordBatch]:
        """A large result in pieces, in its order."""
        query = ibis.to_sql(expression, dialect="duckdb")
        yield from self.connection.con.sql(query).to_arrow_reader(BATCH_ROWS)


@contextlib.contextmanager
def opened(scratch: Path, choice: EngineChoice) -> Iterator[DuckDBEngine]:
    """An engine that keeps its spill files in `scratch` and at most `choice.memory` in RAM
    (`linguarec.data.engine.open_engine`)."""
    memory = choice.memory
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
            yield DuckDBEngine(connection)
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
        raise DataFormatError(explain(str(error), scratch)) from error


@contextlib.contextmanager
def _reporting(files: SourceFiles) -> Iterator[None]:
    """Errors of opening an address name it: a missing extension, a refused connection, an object that is not there.

    Raises:
        DataFormatError: DuckDB cannot open it.
    """
    try:
        yield
    except duckdb.Error as error:
        if not files.remote:
            raise
        raise DataFormatError(
            f"DuckDB cannot open {files.shown} ({_short(_first_line(error))}). Check the address and its credentials. "
            f"Addresses need "
            "DuckDB's extension httpfs (https, s3, gs) or azure, which DuckDB installs from its server when it is first used: "
            "without that connection install it beforehand, or copy the files here."
        ) from error


def _paths(files: SourceFiles) -> list[str]:
    """The paths as patterns that match them alone: DuckDB takes `log[1].csv` for a pattern, which matches `log1.csv`."""
    return list(files.paths) if files.remote else [re.sub(r"([\[*?])", r"[\1]", path) for path in files.paths]


def _read_parquet(files: SourceFiles) -> str:
    paths = ", ".join(map(_sql_text, _paths(files)))
    if files.remote:
        return f"read_parquet([{paths}], hive_partitioning=true, hive_types_autocast=false)"
    return f"read_parquet([{paths}], hive_partitioning=false{f', filename={_PATH!r}' if files.partitions else ''})"


def _partition(key: str) -> str:
    """The value of a partition, as SQL: of the last folder `KEY=VALUE` in the path of the file.

    DuckDB's own `hive_partitioning` takes those above the given folder as well, and puts them in the place of columns.
    """
    pattern = rf"(?s)^(?:.*/)?{re.escape(key)}=([^/]*)/"
    return f"url_decode(nullif(regexp_extract({_sql_name(_PATH)}, {_sql_text(pattern)}, 1), '{_NO_VALUE}'))"


def _sql_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def explain(message: str, scratch: Path) -> str:
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
