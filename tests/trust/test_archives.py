"""Packed sources that unpack to gigabytes are refused before they fill the disk, unless the user allows them."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from linguarec.cli import main
from linguarec.commands.prepare import prepare_table
from linguarec.data.readers import packing
from linguarec.data.readers.json_files import open_json
from linguarec.errors import DataFormatError


def zipped(content: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", content)
    return written.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: bytes(pa.Codec("zstd").compress(content, asbytes=True)),
    "zip": zipped,
}
HEADER = "user_id,item_id,timestamp\n"
ROWS = "".join(f"u{user},i{item},{1_500_000_000 + item}\n" for user in range(6) for item in range(6))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest size that may be unpacked is 1 MB, and not 2 GiB."""
    monkeypatch.setattr(packing, "LARGEST_UNPACKED", 1_000_000)


@pytest.mark.parametrize("kind", PACKERS)
def test_a_log_that_unpacks_to_too_much(kind: str, tmp_path: Path) -> None:
    file, out = tmp_path / "log.csv", tmp_path / "out"
    file.write_bytes(PACKERS[kind]((HEADER + ROWS + "u0,i0,1500000000\n" * 300_000).encode()))
    assert packing.packing(file) == kind
    assert file.stat().st_size < 30_000
    said = r"log\.csv has [\d,]+ bytes and unpacks to more than 200 times as many.*pass --large-archives if it is right"
    with pytest.raises(DataFormatError, match=said):
        prepare_table(file, out)
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]
    found = prepare_table(file, out, large_archives=True)
    assert (found.users, found.items_, found.interactions) == (6, 6, 36)


def test_the_flag_is_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_bytes(gzip.compress((HEADER + ROWS + "u0,i0,1500000000\n" * 300_000).encode()))
    words = ["prepare", "table", "--interactions", str(tmp_path / "log"), "-o", str(tmp_path / "out")]
    for flags, code in (([], 2), (["--large-archives"], 0)):
        with pytest.raises(SystemExit) as ended:
            main([*words, *flags])
        assert ended.value.code == code
        assert ("pass --large-archives" in capsys.readouterr().err) == (code == 2)


def test_only_what_exceeds_both_bounds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = "".join(f"u{user},i{item},{1_500_000_000 + item}\n" for user in range(300) for item in range(200)).encode()
    (tmp_path / "large").write_bytes(gzip.compress(HEADER.encode() + noise))  # above the size alone
    assert len(noise) > 1_000_000
    prepare_table(tmp_path / "large", tmp_path / "one")
    monkeypatch.setattr(packing, "LARGEST_UNPACKED", 10_000_000)
    (tmp_path / "dense").write_bytes(gzip.compress((HEADER + ROWS + "u0,i0,1500000000\n" * 300_000).encode()))
    prepare_table(tmp_path / "dense", tmp_path / "two")  # above the ratio alone


def test_json_that_the_database_unpacks_itself(tmp_path: Path) -> None:
    file = tmp_path / "meta.json.gz"
    file.write_bytes(gzip.compress((json.dumps({"asin": "i0", "title": "a"}) + "\n").encode() * 200_000))
    with pytest.raises(DataFormatError, match="pass --large-archives"):
        open_json(file, tmp_path)
    with packing.large_archives(True):
        assert not open_json(file, tmp_path).is_array
