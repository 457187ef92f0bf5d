"""DuckDB's functions for which Ibis has no name of its own."""

from datetime import datetime
from typing import Any

import ibis


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
