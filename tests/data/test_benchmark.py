"""Attributes that lie beside benchmark files."""

import gzip
from pathlib import Path

import pytest

from linguarec.data.readers.benchmark import _read_attributes
from linguarec.errors import DataFormatError


def test_damaged_attributes(tmp_path: Path) -> None:
    packed = gzip.compress(b"item_id,title\n" + b"".join(b"i%d,%d\n" % (k, k * 7919) for k in range(500)))
    file = tmp_path / "items.csv.gz"
    for content in (packed[:-30], packed[:200] + b"\xff" * 20 + packed[220:]):
        file.write_bytes(content)
        with pytest.raises(DataFormatError, match=r"items\.csv\.gz is cut short or damaged.*fetch it again"):
            _read_attributes(tmp_path)
    file.write_bytes(b"no gzip")
    with pytest.raises(
        DataFormatError, match=r"items\.csv\.gz has one column, 'no gzip'; expected the raw id and attributes"
    ):
        _read_attributes(tmp_path)
    file.write_bytes(gzip.decompress(packed))  # plain, whatever its suffix says
    assert _read_attributes(tmp_path)[1]["i3"] == {"title": "23757"}
    file.write_bytes(packed)
    assert _read_attributes(tmp_path)[1]["i2"] == {"title": "15838"}
