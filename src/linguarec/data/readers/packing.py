"""Opens packed source files. The packing is told by the first bytes of a file: its name may lack the suffix or lie."""

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, Literal, cast

import pyarrow as pa

from linguarec.errors import DataFormatError, listed
from linguarec.regular import check_regular

Packing = Literal["gzip", "bz2", "xz", "zstd", "zip"]
UNPACKED = "unpacked"  # the folder within the scratch folder that holds unpacked copies

_FIRST_BYTES: dict[bytes, Packing] = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty archive
}
_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
# A file that unpacks to more than both is refused unless the user allows it: logs shrink to a tenth, zeros to a thousandth.
LARGEST_UNPACKED = 2 << 30  # bytes
LARGEST_RATIO = 200
_LARGEST_GZIP_RATIO = 1032  # of the format
_large_allowed: ContextVar[bool] = ContextVar("_large_allowed", default=False)

_PARQUET_BYTES = b"PAR1"
_PARQUET_SUFFIXES = (".parquet", ".pq")


def packing(file: Path) -> Packing | None:
    """How the file is packed; None = it is plain.

    Raises:
        DataFormatError: the file is missing.
    """
    check_exists(file)
    with file.open("rb") as content:
        first = content.read(10)
    # "BZh" alone may begin a text; a digit and the start of a block (or the end of an empty file) follow it.
    if first[:3] == b"BZh" and first[4:] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return "bz2"
    return next((kind for begin, kind in _FIRST_BYTES.items() if first.startswith(begin)), None)


def duckdb_compression(file: Path) -> str:
    """The packing of a file that `unpacked` returned, as DuckDB names it; DuckDB itself would go by the suffix."""
    return "gzip" if packing(file) == "gzip" else "none"


def is_parquet(file: Path) -> bool:
    """Whether the file is Parquet by its first bytes or, so that a damaged one is named as such, by its suffix.

    Raises:
        DataFormatError: the file is missing.
    """
    check_exists(file)
    with file.open("rb") as content:
        return content.read(4) == _PARQUET_BYTES or file.suffix in _PARQUET_SUFFIXES


def unpacked(file: Path, scratch: Path, plain_only: bool = False) -> Path:
    """The file itself if DuckDB can read it (plain or gzip), else a plain copy in `scratch`; `plain_only`: a copy of gzip, too.

    Raises:
        DataFormatError: the file is missing or cut short, or the archive does not hold exactly one file.
    """
    if (kind := packing(file)) is None or (kind == "gzip" and not plain_only):
        return file
    target = scratch_copy(file, scratch)
    if not target.exists():
        partial = target.with_name(f"{target.name}.partial")
        with opened(file, file) as packed, partial.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
        partial.replace(target)
    return target


def scratch_copy(file: Path, scratch: Path, kind: str = "plain") -> Path:
    """Where a copy of the source `file` belongs in `scratch`. Its name is the file's without the suffix of the packing.

    Two sources may have one name, so that each copy has a folder of its own.
    """
    key = hashlib.sha256(f"{kind} {file.absolute()}".encode()).hexdigest()[:12]
    folder = scratch / UNPACKED / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (file.stem if file.suffix in _SUFFIXES else file.name)


@contextmanager
def large_archives(allowed: bool) -> Iterator[None]:
    """Within the block, packed files may be of any size if `allowed`."""
    token = _large_allowed.set(allowed)
    try:
        yield
    finally:
        _large_allowed.reset(token)


def check_unpacked_size(file: Path) -> None:
    """Refuse a gzip file that unpacks to too much; for files that the database unpacks itself.

    Raises:
        DataFormatError: it is too large, cut short or damaged.
    """
    may_be_large = file.stat().st_size * _LARGEST_GZIP_RATIO > LARGEST_UNPACKED
    if may_be_large and not _large_allowed.get() and packing(file) == "gzip":
        with opened(file, file) as content:
            while content.read(1 << 20):
                pass


class _Limited(io.RawIOBase):
    """What is unpacked from `file`, up to the largest size allowed; messages name the file as `shown`."""

    def __init__(self, content: IO[bytes], file: Path, shown: Path) -> None:
        self.content, self.shown = content, shown
        self.packed = file.stat().st_size
        self.left = max(LARGEST_UNPACKED, LARGEST_RATIO * self.packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.content.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise DataFormatError(
                f"{self.shown} has {self.packed:,} bytes and unpacks to more than {LARGEST_RATIO} times as many and "
                f"{LARGEST_UNPACKED:,} bytes, as no log or catalogue does; pass --large-archives if it is right."
            )
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened(file: Path, shown: Path) -> Iterator[IO[bytes]]:
    """The content of the file, unpacked, open for reading; messages name it as `shown`.

    Raises:
        DataFormatError: the file is missing, what is read in the block is cut short or damaged, or unpacks to too much, or an
            archive does not hold exactly one file.
    """
    kind = packing(file)
    try:
        with _open(file, kind) as content:
            limited = kind is not None and not _large_allowed.get()
            yield io.BufferedReader(_Limited(content, file, shown), 1 << 16) if limited else content
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
        raise DataFormatError(_damaged(shown, error)) from error
    except OSError as error:
        if error.errno is not None or kind is None:
            raise  # the disk's fault, not the file's
        raise DataFormatError(_damaged(shown, error)) from error


def is_damaged(file: Path) -> bool:
    """Whether a gzip file does not unpack to its end. DuckDB reports what it gets out of such a file as malformed lines."""
    try:
        with opened(file, file) as content:
            while content.read(1 << 20):
                pass
    except DataFormatError:
        return True
    return False


def check_exists(file: Path) -> None:
    """Refuse a file that is not there.

    Raises:
        DataFormatError: the path is no file.
    """
    check_regular(file, DataFormatError)
    if not file.is_file():
        raise DataFormatError(f"{file} does not exist or is not a file; check the path.")


def _damaged(file: Path, error: Exception) -> str:
    return f"{file} is cut short or damaged ({error}); fetch it again."


def _open(file: Path, kind: Packing | None) -> AbstractContextManager[IO[bytes]]:
    match kind:
        case "gzip":
            return cast(IO[bytes], gzip.open(file))
        case "xz":
            return cast(IO[bytes], lzma.open(file))
        case "bz2":
            return cast(IO[bytes], bz2.open(file))
        case "zstd":
            stream = pa.CompressedInputStream(str(file), "zstd")
            return io.BufferedReader(cast(io.RawIOBase, stream))  # which reads lines, too
        case "zip":
            return _only_member(file)
        case None:
            return file.open("rb")


@contextmanager
def _only_member(file: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.namelist() if not member.endswith("/")]
        if "[Content_Types].xml" in members:
            raise DataFormatError(f"{file} is a spreadsheet or an office document; save it as CSV.")
        if len(members) != 1:
            found = f": {listed(members)}" if members else ""
            raise DataFormatError(
                f"{file} holds {len(members)} files{found}; expected one. Unpack it and give the right file."
            )
        with archive.open(members[0]) as member:
            yield member
