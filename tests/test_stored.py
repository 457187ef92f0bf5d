"""Damaged files of our own are named, with what to do about them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linguarec.errors import CheckpointMismatchError, DataFormatError
from linguarec.stored import read_array, read_json, read_record, read_table

MEND = "Fetch it again."


@dataclass
class Point:
    x: int
    y: int
    z: int = 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"x": 1', r"is not JSON \(.*\)\. Fetch it again\.$"),
        (b"\xff\xfe", r"is not JSON \(.*codec can't decode.*\)\. Fetch"),
        (b"[1]", r"holds a list, expected an object\. Fetch it again\.$"),
        (
            b'{"x": 1, "why": 2}',
            r"does not describe a point: it lacks y and it has the unknown why\. Fetch it again\.$",
        ),
        (None, r"is missing\. Fetch it again\.$"),
    ],
)
def test_records(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "point.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointMismatchError, match=f"^{file} {message}"):
        read_record(Point, file, "a point", CheckpointMismatchError, MEND)
    file.write_text('{"x": 1, "y": 2}')
    assert read_json(file, DataFormatError, MEND) == {"x": 1, "y": 2}
    assert read_record(Point, file, "a point", DataFormatError, MEND) == Point(1, 2)


@pytest.mark.parametrize("mapped", [False, True])
def test_arrays(mapped: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, np.arange(100))
    whole = file.read_bytes()
    assert read_array(file, DataFormatError, MEND, mapped).sum() == 4950
    for content in (whole[:-8], whole[:50], b"PK no array", b""):
        file.write_bytes(content)
        with pytest.raises(DataFormatError, match=rf"^{file} is cut short, or not a NumPy array \(.*\)\. Fetch"):
            read_array(file, DataFormatError, MEND, mapped)
    file.unlink()
    with pytest.raises(DataFormatError, match=f"^{file} is missing. Fetch it again"):
        read_array(file, DataFormatError, MEND, mapped)


def test_tables(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), file)
    whole = file.read_bytes()
    assert read_table(file, DataFormatError, MEND, ["b"]).to_pydict() == {"b": ["x", "y"]}
    with pytest.raises(DataFormatError, match=rf"^{file} has no column 'colour'; it has: 'a', 'b'\. Fetch"):
        read_table(file, DataFormatError, MEND, ["colour"])
    for content in (whole[:-8], whole[: len(whole) // 2], b"a,b\n", b""):
        file.write_bytes(content)
        with pytest.raises(DataFormatError, match=rf"^{file} is cut short, or not a Parquet file \((.|\n)*\)\. Fetch"):
            read_table(file, DataFormatError, MEND)
    file.unlink()
    with pytest.raises(DataFormatError, match=f"^{file} is missing. Fetch it again"):
        read_table(file, DataFormatError, MEND)
