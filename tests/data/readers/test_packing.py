"""The packing of a source file is told by its first bytes, whatever its name."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import metadata, nothing_written, rectangle, reviews_2018, write_json_lines, write_log

from linguarec.commands.prepare import prepare_amazon, prepare_table
from linguarec.data.dataset import PreparedDataset
from linguarec.data.readers.packing import packing
from linguarec.errors import DataFormatError


def zipped(*names: str) -> Callable[[bytes], bytes]:
    def pack(content: bytes) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, content)
        return target.getvalue()

    return pack


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
    "zip": zipped("inner.csv"),
}
NAMES = ["log", "log.csv", "log.gz", "log.csv.zip", "spill"]  # without a suffix, or with one that is wrong


@pytest.fixture
def fingerprint(tmp_path: Path) -> str:
    """Of the folder prepared from the plain file."""
    prepare_table(write_log(tmp_path / "plain.csv", rectangle()), tmp_path / "plain")
    return PreparedDataset.open(tmp_path / "plain").fingerprint


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_packed_log_under_any_name(kind: str, name: str, tmp_path: Path, fingerprint: str) -> None:
    file = tmp_path / name
    file.write_bytes(PACKERS[kind]((tmp_path / "plain.csv").read_bytes()))
    assert packing(file) == kind
    prepare_table(file, tmp_path / "out")
    assert PreparedDataset.open(tmp_path / "out").fingerprint == fingerprint


@pytest.mark.parametrize("name", ["log.gz", "log.xz", "log.csv.zip", "log"])
def test_a_plain_log_with_the_suffix_of_a_packing(name: str, tmp_path: Path, fingerprint: str) -> None:
    file = (tmp_path / "plain.csv").rename(tmp_path / name)
    prepare_table(file, tmp_path / "out")
    assert PreparedDataset.open(tmp_path / "out").fingerprint == fingerprint


def test_log_and_catalogue_of_one_name(tmp_path: Path, fingerprint: str) -> None:
    """Their unpacked copies do not overwrite each other."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    log, items = tmp_path / "a" / "data.csv.xz", tmp_path / "b" / "data.csv.xz"
    log.write_bytes(lzma.compress((tmp_path / "plain.csv").read_bytes()))
    items.write_bytes(lzma.compress(b"item_id,title\n" + b"".join(b"i%d,T%d\n" % (k, k) for k in range(5))))
    prepare_table(log, tmp_path / "out", items)
    assert PreparedDataset.open(tmp_path / "out").texts == ["T0.", "T1.", "T2.", "T3.", "T4."]


@pytest.mark.parametrize("kind", ["gzip", "bz2", "xz", "zstd"])
def test_packed_json_without_a_suffix(kind: str, tmp_path: Path) -> None:
    reviews = write_json_lines(tmp_path / "reviews", reviews_2018())
    meta = write_json_lines(tmp_path / "meta.json", metadata(brand="Acme", category=["A", "B"]))
    for file in (reviews, meta):
        file.write_bytes(PACKERS[kind](file.read_bytes()))
    result = prepare_amazon("2018", reviews, meta, tmp_path / "out")
    assert (result["users"], result["items"], result["interactions"]) == (5, 5, 25)
    assert PreparedDataset.open(tmp_path / "out").texts[0] == "Thing 0. A B. Acme."


def test_parquet_under_any_name(tmp_path: Path, fingerprint: str) -> None:
    users, items, times = zip(*rectangle(), strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), tmp_path / "log.csv")
    prepare_table(tmp_path / "log.csv", tmp_path / "out")
    assert PreparedDataset.open(tmp_path / "out").fingerprint == fingerprint


@pytest.mark.parametrize("kind", PACKERS)
def test_a_packed_file_that_is_cut_short(kind: str, tmp_path: Path) -> None:
    rows = [(f"u{k * 7919 % 997}", f"i{k * 104_729 % 991}", k) for k in range(5000)]
    packed = PACKERS[kind](write_log(tmp_path / "plain.csv", rows).read_bytes())
    file = tmp_path / "log"
    file.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataFormatError, match=rf"{file}\b.*(cut short|damaged).*fetch it again"):
        prepare_table(file, tmp_path / "out")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (zipped("a.csv", "b.csv")(b"x"), r"holds 2 files: 'a\.csv', 'b\.csv'; expected one"),
        (zipped()(b""), r"holds 0 files; expected one"),
        (
            zipped("[Content_Types].xml", "xl/workbook.xml")(b"x"),
            r"is a spreadsheet or an office document; save it as CSV",
        ),
        ("user_id,item_id,timestamp\nu,i,1\n".encode("utf-16"), r"is UTF-16; convert it to UTF-8"),
        (bytes(range(256)) * 4, r"is no text file: it begins with b'\\x00\\x01"),
        (b"\x93\x01\xff\xfe" * 40, r"is no text file: it begins with b'\\x93\\x01"),
        (gzip.compress(gzip.compress(b"user_id,item_id\n")), r"is no text file: it begins with b'\\x1f\\x8b"),
    ],
    # Archives hold the time at which they are made: by their bytes, two workers would name the tests differently.
    ids=["two files", "no file", "spreadsheet", "UTF-16", "bytes", "latin-1 bytes", "packed twice"],
)
def test_content_that_is_no_table(content: bytes, found: str, tmp_path: Path) -> None:
    """In none of these cases --encoding latin-1 is proposed, which would read rubbish."""
    file = tmp_path / "log.csv"
    file.write_bytes(content)
    with pytest.raises(DataFormatError, match=rf"log\.csv {found}") as caught:
        prepare_table(file, tmp_path / "out")
    assert "latin-1" not in str(caught.value)
    assert nothing_written(tmp_path)
