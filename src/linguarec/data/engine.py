"""The seam between preparation and the database that runs it: DuckDB on one machine, Spark on a cluster.

Preparation is written once, as Ibis expressions over an `Engine`. What the two databases do differently is here and
nowhere else: how files are opened, how rows are numbered in the order of the files, where the tables of the steps lie.
"""

import contextlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ibis.expr.types as ir
import pyarrow as pa

from linguarec.data.source_files import SourceFiles, TextForm
from linguarec.errors import SettingsError

EngineName = Literal["duckdb", "spark"]


@dataclass(frozen=True)
class EngineChoice:
    """Which database prepares: its name, the memory that it may use ("1500MB"), and, for Spark, the master's URL."""

    name: EngineName = "duckdb"
    memory: str = "1500MB"
    master: str | None = None


class Engine(ABC):
    """A database and the few operations that preparation needs.

    Tables are explicit and named, and dropped when the next step has read them; nothing is cached implicitly. A table is *of a
    file* if its rows come straight from files (`text_rows`, `parquet_rows`, and what is computed of them row by row): only
    `store_rows` and `first_rows` may read such a table.
    """

    plain_files: bool  # whether packed local files have to be unpacked first

    @abstractmethod
    def text_rows(self, files: SourceFiles, form: TextForm) -> ir.Table:
        """The rows of text files as a table of a file."""

    @abstractmethod
    def parquet_rows(self, files: SourceFiles, columns: Mapping[str, str]) -> ir.Table:
        """The rows of Parquet files as a table of a file; `columns` maps the wanted names to the names in the files."""

    @abstractmethod
    def first_line(self, address: str) -> str:
        """The first line of a text file at an address that this program cannot open itself."""

    @abstractmethod
    def parquet_columns(self, address: str) -> list[str]:
        """Names of the columns of Parquet files at such an address."""

    @abstractmethod
    def store_rows(self, expression: ir.Table) -> ir.Table:
        """Compute a table of a file, row by row, into a stored table in the order of the files."""

    @abstractmethod
    def first_rows(self, expression: ir.Table, number: int) -> list[dict[str, Any]]:
        """The first rows of a table of a file, in the order of the files."""

    @abstractmethod
    def positioned(self, stored: ir.Table) -> ir.Table:
        """The result of `store_rows` with a column `position`: the row in the files, from 0."""

    @abstractmethod
    def numbered(self, expression: ir.Table, order: str) -> ir.Table:
        """Store the table with an int32 column `code` in the place of the column `order`, whose values are distinct: 0 is the
        smallest."""

    @abstractmethod
    def store(self, expression: ir.Table, *consumed: ir.Table) -> ir.Table:
        """Compute `expression` into a new table, then drop the `consumed` tables."""

    @abstractmethod
    def drop(self, *tables: ir.Table) -> None:
        """Drop stored tables."""

    @abstractmethod
    def rows(self, expression: ir.Table) -> list[dict[str, Any]]:
        """A small result as Python rows."""

    @abstractmethod
    def stream(self, expression: ir.Table) -> Iterator[pa.RecordBatch]:
        """A large result in pieces, in its order."""

    def value(self, expression: ir.Scalar) -> Any:
        """One number or string."""
        return next(iter(self.rows(expression.as_table())[0].values()))


@contextlib.contextmanager
def open_engine(scratch: Path, choice: EngineChoice) -> Iterator[Engine]:
    """An engine for one preparation, which keeps files of its own in `scratch`.

    Raises:
        DataFormatError: a source file is malformed.
        OutputError: the disk is full.
        SettingsError: the memory is no amount of memory, or what the engine needs is not there.
    """
    if choice.name == "duckdb" and choice.master is not None:
        raise SettingsError(
            ["--master names a Spark master, which DuckDB does not use; pass --engine spark, or leave it out."]
        )
    # The other engine's libraries are not loaded.
    module = importlib.import_module(f"linguarec.data.{choice.name}_engine")
    with module.opened(scratch, choice) as engine:
        yield engine
