"""Read files that linguarec wrote. The error for a missing, truncated or foreign file names it and says how to restore it.

In every function `error` is the class to raise, and `mend` is a sentence that tells the user how to restore the file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from linguarec.errors import LinguarecError, listed
from linguarec.records import record_of
from linguarec.regular import check_regular

Error = Callable[[str], LinguarecError]
Record = TypeVar("Record")
AGAIN = "Copy the folder again, or train the model again."  # the `mend` of files of a run
_NUMBERS_AT_ONCE = 1 << 22  # that are checked to be finite: 16 MiB of float32
# What np.load raises for contents that are no array: a header that is no Python literal, a size that no memory holds, ...
NOT_AN_ARRAY = (
    ValueError, TypeError, KeyError, EOFError, OSError, MemoryError, OverflowError, RecursionError, SyntaxError, TokenError,
    BadZipFile,
)  # fmt: skip


def read_json(file: Path, error: Error, mend: str) -> dict[str, Any]:
    """The object in a JSON file."""
    _check_file(file, error, mend)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a surrogate pair, which no text can hold
    except RecursionError as reason:
        raise error(f"{file} is not JSON of linguarec: it is nested too deeply. {mend}") from reason
    except (ValueError, OSError) as reason:
        raise error(f"{file} is not JSON ({reason}). {mend}") from reason
    if not isinstance(content, dict):
        raise error(f"{file} holds a {type(content).__name__}, expected an object. {mend}")
    return content


def read_record(kind: type[Record], file: Path, what: str, error: Error, mend: str) -> Record:
    """The dataclass stored in a JSON file, each field checked against its type; `what` names it in the error message."""
    content = read_json(file, error, mend)
    try:
        return record_of(kind, content)
    except ValueError as reason:
        raise error(f"{file} does not describe {what}: {reason}. {mend}") from reason


def read_array(
    file: Path,
    error: Error,
    mend: str,
    mapped: bool = False,
    dtype: npt.DTypeLike | type[np.generic] | None = None,
    shape: Sequence[int | None] | None = None,
) -> npt.NDArray[Any]:
    """The array in a NumPy file; a memory map if `mapped`.

    `dtype`: the type of its numbers, or an abstract one such as `np.floating`; None = any number. `shape`: its expected
    shape, with None for an axis of any length; None = any.
    """
    _check_file(file, error, mend)
    try:
        array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except NOT_AN_ARRAY as reason:
        raise error(f"{file} is cut short, or not a NumPy array ({reason}). {mend}") from reason
    if not isinstance(array, np.ndarray):
        raise error(f"{file} is cut short, or not a NumPy array (it holds several). {mend}")
    if wrong := array_problem(array, dtype, shape):
        raise error(f"{file} {wrong}. {mend}")
    return array


def array_problem(
    array: npt.NDArray[Any], dtype: npt.DTypeLike | type[np.generic] | None, shape: Sequence[int | None] | None
) -> str | None:
    """What is wrong with the type or shape of an array, arguments as in `read_array`; None = nothing."""
    is_number = array.dtype.kind in "biuf" and array.dtype.isnative
    if not is_number or not (dtype is None or np.issubdtype(array.dtype, dtype)):
        name = (
            "numbers" if dtype is None else "floating-point numbers" if dtype is np.floating else np.dtype(dtype).name
        )
        return f"holds {array.dtype}, expected {name}"
    if shape is not None and not (
        len(shape) == array.ndim and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    ):
        axes = ", ".join("any" if n is None else str(n) for n in shape)
        return f"has shape {array.shape}, expected ({axes}{',' if len(shape) == 1 else ''})"
    return None


def finite_problem(array: npt.NDArray[np.floating[Any]]) -> str | None:
    """Which row of an array holds NaN or an infinity, the first one; None = no row. Reads blocks of a memory map."""
    rows = max(1, _NUMBERS_AT_ONCE // max(1, array[0].size)) if len(array) else 1
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        if not np.isfinite(block).all():
            bad = ~np.isfinite(block.reshape(len(block), -1)).all(axis=1)
            return f"holds NaN or an infinity, first in row {start + int(bad.argmax())}"
    return None


def read_table(
    file: Path,
    error: Error,
    mend: str,
    columns: Mapping[str, pa.DataType] | Sequence[str] | None = None,
    filled: Sequence[str] = (),
) -> pa.Table:
    """The table in a Parquet file, or some of its columns; `schema.metadata` is kept.

    `columns`: names, or name -> type, which is checked. `filled`: columns that must have a value in every row.
    """
    _check_file(file, error, mend)
    try:
        if wrong := columns_problem(pq.read_schema(file), columns or ()):
            raise error(f"{file} {wrong}. {mend}")
        table = pq.read_table(file, columns=None if columns is None else list(columns))
        table.validate(full=True)
    except (pa.ArrowException, OSError, MemoryError) as reason:
        first = (str(reason).splitlines() or [""])[0]
        raise error(f"{file} is cut short, or not a Parquet file ({first}). {mend}") from reason
    for name in filled:
        if nulls := table[name].null_count:
            raise error(f"{file}: the column {name!r} has no value in {nulls:,} rows. {mend}")
    return table


def columns_problem(schema: pa.Schema, columns: Mapping[str, pa.DataType] | Sequence[str]) -> str | None:
    """What is wrong with the columns of a table, `columns` as in `read_table`; None = nothing."""
    lacking = [name for name in columns if schema.names.count(name) != 1]
    if lacking:
        return f"has no column {listed(lacking)}; it has: {listed(schema.names)}"
    if isinstance(columns, Mapping):
        for name, kind in columns.items():
            if schema.field(name).type != kind:
                return f"has a column {name!r} of the type {schema.field(name).type}, expected {kind}"
    return None


def _check_file(file: Path, error: Error, mend: str) -> None:
    check_regular(file, error)
    if not file.is_file():
        raise error(f"{file} is {'a folder, expected a file' if file.is_dir() else 'missing'}. {mend}")
