"""Read files that linguarec wrote. The error for a missing, truncated or foreign file names it and says how to restore it.

In every function `error` is the class to raise, and `mend` is a sentence that tells the user how to restore the file.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from linguarec.errors import LinguarecError

Error = Callable[[str], LinguarecError]
Record = TypeVar("Record")
AGAIN = "Copy the folder again, or train the model again."  # the `mend` of files of a run


def read_json(file: Path, error: Error, mend: str) -> dict[str, Any]:
    """The object in a JSON file."""
    if not file.is_file():
        raise error(f"{file} is missing. {mend}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as reason:
        raise error(f"{file} is not JSON ({reason}). {mend}") from reason
    if not isinstance(content, dict):
        raise error(f"{file} holds a {type(content).__name__}, expected an object. {mend}")
    return content


def read_record(kind: type[Record], file: Path, what: str, error: Error, mend: str) -> Record:
    """The dataclass stored in a JSON file; `what` names it in the error message."""
    content = read_json(file, error, mend)
    declared = fields(kind)  # type: ignore[arg-type]
    needed = [each.name for each in declared if each.default is MISSING and each.default_factory is MISSING]
    lacking = [name for name in needed if name not in content]
    strange = [name for name in content if name not in [each.name for each in declared]]
    if lacking or strange:
        found = [f"it lacks {', '.join(lacking)}"] if lacking else []
        found += [f"it has the unknown {', '.join(strange)}"] if strange else []
        raise error(f"{file} does not describe {what}: {' and '.join(found)}. {mend}")
    return kind(**content)


def read_array(file: Path, error: Error, mend: str, mapped: bool = False) -> npt.NDArray[Any]:
    """The array in a NumPy file; a memory map if `mapped`."""
    if not file.is_file():
        raise error(f"{file} is missing. {mend}")
    try:
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r" if mapped else None)
    except (ValueError, EOFError) as reason:
        raise error(f"{file} is cut short, or not a NumPy array ({reason}). {mend}") from reason
    return array


def read_table(file: Path, error: Error, mend: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in a Parquet file, or some of its columns; `schema.metadata` is kept."""
    if not file.is_file():
        raise error(f"{file} is missing. {mend}")
    try:
        return pq.read_table(file, columns=None if columns is None else list(columns))
    except pa.ArrowInvalid as reason:
        raise error(f"{file} is cut short, or not a Parquet file ({str(reason).splitlines()[0]}). {mend}") from reason
