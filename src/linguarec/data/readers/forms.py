"""How rows are written in text files, and how DuckDB opens them: as a whole, or the part of a file that a worker of
Spark has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ibis.expr.types as ir


@dataclass(frozen=True)
class CsvForm:
    """CSV: the names in `header`, every value a string. `has_header`: the first line holds the names."""

    header: tuple[str, ...]
    has_header: bool
    delimiter: str
    quotes: bool
    encoding: str
    compression: str = "none"

    @property
    def columns(self) -> dict[str, str]:
        """Names of the columns and their Ibis types."""
        return dict.fromkeys(self.header, "string")

    @property
    def header_lines(self) -> int:
        """Lines before the first row."""
        return int(self.has_header)

    @property
    def quote(self) -> str:
        """The character within which a line break does not end a row."""
        return '"' if self.quotes else ""

    def open(self, connection: Any, files: Sequence[str], name: str | None = None) -> ir.Table:
        """The files as a table of an Ibis connection to DuckDB."""
        table: ir.Table = connection.read_csv(
            list(files),
            table_name=name,
            columns=dict.fromkeys(self.header, "VARCHAR"),
            auto_detect=False,
            header=self.has_header,
            delim=self.delimiter,
            quote=self.quote,
            escape=self.quote,
            encoding=self.encoding,
            compression=self.compression,
            strict_mode=True,
            hive_partitioning=False,  # a folder named like a column would replace its values
        )
        return table


@dataclass(frozen=True)
class JsonForm:
    """JSON: the values of the `keys` as JSON or NULL. `is_array`: one array, not one object a line."""

    keys: tuple[str, ...]
    is_array: bool
    longest: int
    compression: str = "none"

    @property
    def columns(self) -> dict[str, str]:
        """Names of the columns and their Ibis types."""
        return dict.fromkeys(self.keys, "json")

    @property
    def header_lines(self) -> int:
        """There is none."""
        return 0

    @property
    def quote(self) -> str:
        """Line breaks in strings of JSON are escaped."""
        return ""

    def open(self, connection: Any, files: Sequence[str], name: str | None = None) -> ir.Table:
        """The files as a table of an Ibis connection to DuckDB."""
        table: ir.Table = connection.read_json(
            list(files),
            table_name=name,
            columns=dict.fromkeys(self.keys, "JSON"),
            format="array" if self.is_array else "newline_delimited",
            compression=self.compression,
            maximum_object_size=self.longest,
            hive_partitioning=False,
        )
        return table
