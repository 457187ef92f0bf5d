"""Functions of the database: DuckDB's own for which Ibis has no name, and a few in Python."""

import json
from datetime import datetime
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from linguarec.values import part_of, written_out


@ibis.udf.scalar.builtin
def try_strptime(value: str, format: str) -> datetime:  # type: ignore[empty-body]
    """The moment that `value` names in `format`, NULL where it does not fit."""


@ibis.udf.scalar.builtin
def epoch_us(moment: datetime) -> int:  # type: ignore[empty-body]
    """Microseconds since 1970."""


@ibis.udf.scalar.builtin(signature=(("json", "string"), "string"))
def json_extract_string(value: Any, path: str) -> str:  # type: ignore[empty-body]
    """The JSON value at `path` as a bare string."""


@ibis.udf.scalar.builtin(name="json_extract_string", signature=(("json", "string"), "array<string>"))
def json_extract_strings(value: Any, path: str) -> list[str]:  # type: ignore[empty-body]
    """All JSON values at a `path` with a wildcard, as bare strings."""


@ibis.udf.scalar.builtin(name="hash", signature=(("json", "json", "json", "json"), "uint64"))
def hash_of_four(a: Any, b: Any, c: Any, d: Any) -> int:  # type: ignore[empty-body]
    """A hash of four JSON values."""


def written_value(json_text: ir.StringValue, key: str | None = None) -> ir.StringValue:
    """The value of a JSON text, or of one key of the dictionary that it is, as `written_out` writes it; NULL if it is none.

    An empty text is NULL, too.
    """
    return (written_json(json_text) if key is None else written_part(json_text, key)).nullif("")


# DuckDB refuses NULL as a result of a function in Python; the empty text stands for it.
@ibis.udf.scalar.pyarrow(signature=(("string",), "string"))
def written_json(values: Any) -> Any:
    """JSON texts as `written_out` writes their values, empty if there is none."""
    return pa.array([_written(_parsed(text)) for text in values.to_pylist()], pa.string())


@ibis.udf.scalar.pyarrow(signature=(("string", "string"), "string"))
def written_part(values: Any, key: Any) -> Any:
    """The value of one key of each JSON text, as `written_out` writes it, empty if there is none."""
    name = key[0].as_py() if len(key) else ""
    return pa.array([_written(part_of(_parsed(text), name)) for text in values.to_pylist()], pa.string())


def _parsed(text: str | None) -> Any:
    """The value of a JSON text; numbers stay as they are written."""
    return None if text is None else json.loads(text, parse_float=str, parse_int=str)


def _written(value: Any) -> str:
    return written_out(value, "A value of a JSON file") or ""


def register(connection: Any) -> None:
    """Make the functions in Python known to an Ibis connection to DuckDB, for queries that are handed over as SQL."""
    for call in (written_json("{}"), written_part("{}", "key")):
        connection.to_pyarrow(call)
