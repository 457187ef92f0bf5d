"""Rows of text as a worker of Spark reads them, without Spark: the same as DuckDB reads of the whole file."""

from pathlib import Path

import ibis
import pyarrow as pa
import pytest

from linguarec.data.readers.forms import CsvForm
from linguarec.data.spark_rows import ROWS, TextReader

FORM = CsvForm(("a", "b"), True, ",", True, "utf-8")
SCHEMA = pa.schema([("a", pa.string()), ("b", pa.string())])


def of_worker(text: bytes, size: int, whole: bool) -> list[tuple[str, str, int]]:
    """The lines of the text in batches of `size`, as Spark hands them out."""
    lines = text.removesuffix(b"\n").split(b"\n")
    batches = [
        pa.record_batch(
            [pa.array(some, pa.binary()), pa.array(["file:///x"] * len(some)), pa.array([0] * len(some), pa.int64())],
            names=["line", "_file", "_part"],
        )
        for some in (lines[start : start + size] for start in range(0, len(lines), size))
    ]
    reader = TextReader(FORM, f'SELECT a, b FROM "{ROWS}"', SCHEMA, whole)
    return [(row["a"], row["b"], row["_row"]) for batch in reader(iter(batches)) for row in batch.to_pylist()]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    "text",
    [
        b"a,b\r\n1,x\r\n2,y\r\n3,z\r\n4,w\r\n",
        b"a,b\r\n1,x\r\n2,y",
        b'a,b\r\n1,"x\ny"\r\n2,y\r\n',
        b'a,b\n1,"x\r\ny"\n2,y\n',
        b"a,b\n1,x\n2,y\n3,z",
    ],
)
def test_batches_of_lines_are_the_file(tmp_path: Path, text: bytes, size: int, whole: bool) -> None:
    file = tmp_path / "log.csv"
    file.write_bytes(text)
    table = FORM.open(ibis.duckdb.connect(threads=1), [str(file)])
    rows = table.to_pyarrow().to_pylist()
    expected = [(row["a"], row["b"], number) for number, row in enumerate(rows)]
    assert of_worker(text, size, whole) == expected
