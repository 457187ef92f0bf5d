"""Read files of `torch.save` without running code from them, and without importing the classes that they name.

A pickle is a program. Here it can build only plain values and `Record`s: each class or function that it names becomes a record
of the name, the arguments and the state. Afterwards tensors are built from the records of torch's rebuild functions, and
ordered dicts become dicts. Everything else (RecBole's `Config`, a `Namespace`, NumPy scalars) stays a record that can be
inspected.

The opcodes of a pickle are followed before it is read (`linguarec.opcodes`), and its tensors may take only a small multiple of
the bytes of the file, so that a small file can neither hang the program nor take all memory.

Both formats are read: the zip archive of torch >= 1.6 and the older stream of pickles.
"""

import io
import logging
import math
import pickle
import re
import struct
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from linguarec.errors import CheckpointMismatchError, listed, quoted
from linguarec.opcodes import check_opcodes
from linguarec.regular import check_regular

log = logging.getLogger(__name__)

# Nothing in a pickle is ever called, so this list is not what protects the user. But a pickle that names one of these modules
# is probably malicious, and the user should know.
RUNNING_MODULES = (
    *("os", "posix", "nt", "sys", "io", "_io", "subprocess", "shutil", "pty", "socket"),
    *("importlib", "runpy", "ctypes", "webbrowser", "pickle", "_pickle", "marshal"),
)
# Names that released checkpoints are known to hold beside those of torch: settings, their enums, NumPy scalars and arrays, and
# what pickle itself needs for objects. Any other name is unusual, and the user should know.
KNOWN_NAMES = re.compile(
    r"torch\.([A-Za-z0-9]+|(_utils|storage|nn|optim|serialization)\..+)"
    r"|collections\.(OrderedDict|defaultdict|Counter)|argparse\.Namespace|(pathlib\.)?(Posix|Pure|Windows)?Path"
    r"|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct)|_?core\.numeric\._frombuffer)|_codecs\.encode"
    r"|(recbole|unisrec|vqrec|config|utils|data)\..+"
    r"|(builtins|__builtin__)\.(object|set|frozenset|list|dict|tuple|int|float|complex|bool|str|bytes|bytearray|slice|range)"
    r"|(copyreg|copy_reg)\._reconstructor|enum\..+|datetime\.\w+"
)
MOST_NAMES = 1000
LARGEST_GROWTH = 8  # bytes of all tensors for each byte of the file: a few tensors share a storage
RUNNING_BUILTINS = ("eval", "exec", "execfile", "compile", "open", "__import__")

STORAGES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
ORDERED_DICT = "collections.OrderedDict"
REBUILT_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
REBUILT_PARAMETER = "torch._utils._rebuild_parameter"
# The older format begins with this pickled number. No other file is unpickled: arbitrary bytes could exhaust the memory.
LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


class Record:
    """Stands for an object that was not built: `name` of its class or function, `arguments`, `state`, appended `entries`."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any
    entries: list[tuple[Any, Any]]

    def __new__(cls, *arguments: Any, **keywords: Any) -> "Record":
        """Called where the pickle calls the class or function."""
        record = super().__new__(cls)
        record.arguments = (*arguments, keywords) if keywords else arguments
        record.state = None
        record.entries = []
        return record

    def __repr__(self) -> str:
        return f"<{self.name}, not made>"

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries.append((key, value))

    def append(self, value: Any) -> None:
        """Called for each entry of a list-like object."""
        self.entries.append((len(self.entries), value))


@dataclass(frozen=True)
class Unpickled:
    """`content` of a file; `not_made`: sorted names of the classes and functions that stay records in it."""

    content: Any
    not_made: list[str]


def unpickle(file: Path) -> Unpickled:
    """Read a file of `torch.save`.

    Raises:
        CheckpointMismatchError: it is not such a file, is truncated, or names something that runs commands.
    """
    check_regular(file, CheckpointMismatchError)
    with file.open("rb") as stream:
        start = stream.read(len(LEGACY_START))
        try:
            if zipfile.is_zipfile(stream):
                return _warned(file, _read_archive(stream, file.stat().st_size))
            if start == LEGACY_START:
                stream.seek(0)
                return _warned(file, _read_stream(stream, file.stat().st_size))
        except UNREADABLE as error:
            raise CheckpointMismatchError(
                f"{file} cannot be read as a file of torch.save: {_reason(error)}. It is cut short, damaged, or of another "
                "program; get it again."
            ) from error
        except CheckpointMismatchError as error:
            raise CheckpointMismatchError(f"{file}: {error}") from error
    if start.startswith(b"PK"):
        raise CheckpointMismatchError(
            f"{file} begins like a file of torch.save and has no end: it is cut short; get it again."
        )
    raise CheckpointMismatchError(
        f"{file} is no file of torch.save: it begins with {start[:8]!r}. Expected a checkpoint (.pth) of the released code."
    )


def _warned(file: Path, found: Unpickled) -> Unpickled:
    """`found`, after a warning of names in it that no known checkpoint holds."""
    if strange := [name for name in found.not_made if not KNOWN_NAMES.fullmatch(name)]:
        log.warning(
            "%s names %s, which known checkpoints do not. Nothing of it was run; do not load the file with other programs "
            "unless you trust its origin.",
            file,
            listed(strange),
        )
    return found


# Exceptions that the standard library and torch raise on invalid bytes.
UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OSError, RecursionError, MemoryError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError, AssertionError),
)


def _reason(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) else error)  # a KeyError would quote its text
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


class _Unpickler(pickle.Unpickler):
    """Builds plain values and records. `element_sizes`: bytes per element of each storage that the pickle refers to."""

    def __init__(self, stream: BinaryIO | io.BytesIO) -> None:
        super().__init__(stream)
        self.classes: dict[str, type[Record]] = {}
        self.element_sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> type[Record]:
        """A subclass of `Record` in place of `module.name`; the same one each time for the same name."""
        # Pickles up to protocol 2 name modules as Python 2 did: `commands` is `subprocess`.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        top = module.split(".")[0]
        if top in RUNNING_MODULES or (top in ("builtins", "__builtin__") and name in RUNNING_BUILTINS):
            raise CheckpointMismatchError(
                f"refused: its pickle names {module}.{name}, which no checkpoint needs and which could run commands on this "
                "machine. Nothing was run. Do not load this file with other programs."
            )
        full = f"{module}.{name}"
        if full not in self.classes:
            if len(self.classes) == MOST_NAMES:
                raise ValueError(f"its pickle names more than {MOST_NAMES:,} classes and functions")

            class Named(Record):
                """A record of this name."""

            Named.name = full
            self.classes[full] = Named
        return self.classes[full]

    def persistent_load(self, pid: Any) -> Any:
        """The reference to a storage, ("storage", type, key, location, length), unchanged."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise ValueError(f"{pid!r} refers to no storage")
        dtype, key, _ = _reference(pid)
        self.element_sizes[key] = dtype.itemsize
        return pid

    def not_made(self) -> list[str]:
        """Names in the pickle that stay records."""
        made = (*REBUILT_TENSORS, REBUILT_PARAMETER, ORDERED_DICT)
        return sorted(name for name in self.classes if name not in made and name.rpartition(".")[2] not in STORAGES)


def _reference(pid: tuple[Any, ...]) -> tuple[torch.dtype, str, int]:
    """(element type, key, number of elements) of a reference to a storage."""
    _, kind, key, _, length, *view = pid
    name = kind.name.rpartition(".")[2] if isinstance(kind, type) and issubclass(kind, Record) else repr(kind)
    if name not in STORAGES:
        raise ValueError(f"{name} is no known type of storage; known: {', '.join(STORAGES)}")
    if not isinstance(key, str) or type(length) is not int or length < 0 or view not in ([], [None]):
        raise ValueError(f"the storage {key!r} is described by {pid[3:]!r}")
    return STORAGES[name], key, length


def _loaded(unpickler: _Unpickler, stream: BinaryIO | io.BytesIO) -> Any:
    """The value of the pickle at the place of the stream, if its opcodes are harmless."""
    start = stream.tell()
    check_opcodes(stream)
    stream.seek(start)
    return unpickler.load()


def _read_archive(stream: BinaryIO, size: int) -> Unpickled:
    with zipfile.ZipFile(stream) as archive:
        names = set(archive.namelist())
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"a zip archive of {len(names)} files with {len(pickles)} data.pkl, expected one")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and _member(archive, f"{folder}byteorder") != b"little":
            raise ValueError("its bytes are in big-endian order")
        data = io.BytesIO(_member(archive, pickles[0]))
        unpickler = _Unpickler(data)
        content = _loaded(unpickler, data)
        return Unpickled(
            _Maker(lambda key: _member(archive, f"{folder}data/{key}"), size).make(content), unpickler.not_made()
        )


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:  # a small compressed file could claim any size
        raise ValueError(f"{name} is compressed, as torch.save never does")
    return archive.read(info)


def _read_stream(stream: BinaryIO, size: int) -> Unpickled:
    for _ in range(3):  # the magic number, the protocol version, facts about the system
        _loaded(_Unpickler(stream), stream)
    unpickler = _Unpickler(stream)
    content = _loaded(unpickler, stream)
    stored: dict[str, bytes] = {}
    for key in _loaded(_Unpickler(stream), stream):
        (length,) = struct.unpack("<q", stream.read(8))
        count = length * unpickler.element_sizes[key]
        if not 0 <= count <= size - stream.tell():
            raise EOFError(f"storage {key} has {length} elements, more than the rest of the file")
        stored[key] = stream.read(count)
    return Unpickled(_Maker(stored.__getitem__, size).make(content), unpickler.not_made())


_UNFINISHED = object()


class _Maker:
    """Turns unpickled values into containers and tensors. `read` returns the bytes of a storage, `size` is that of the file."""

    def __init__(self, read: Callable[[str], bytes], size: int) -> None:
        self.read = read
        self.bytes_left = LARGEST_GROWTH * size
        self.storages: dict[str, Tensor] = {}
        # By id: (value, its result), so that an object that a pickle holds twice is converted once.
        self.made: dict[int, tuple[Any, Any]] = {}

    def make(self, value: Any) -> Any:
        """The value with tensors and dicts in place of their records."""
        if not isinstance(value, dict | list | tuple | Record):
            return value
        if id(value) not in self.made:
            self.made[id(value)] = (value, _UNFINISHED)
            self.made[id(value)] = (value, self._make(value))
        made = self.made[id(value)][1]
        if made is _UNFINISHED:
            raise ValueError("a container holds itself")
        return made

    def _make(self, value: Any) -> Any:
        if isinstance(value, Record):
            if value.name in REBUILT_TENSORS:
                return self._tensor(*value.arguments[:4])
            if value.name == REBUILT_PARAMETER:
                return self.make(value.arguments[0])
            if value.name == ORDERED_DICT:
                return {key: self.make(entry) for key, entry in value.entries}
            value.state = self.make(value.state)
            return value
        if isinstance(value, dict):
            return {key: self.make(entry) for key, entry in value.items()}
        return type(value)(self.make(entry) for entry in value)

    def _tensor(self, storage: tuple[Any, ...], offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        dtype, key, length = _reference(storage)
        if key not in self.storages:
            data = self.read(key)
            if len(data) != length * dtype.itemsize:
                raise EOFError(f"storage {key} has {len(data)} bytes, expected {length} elements of {dtype}")
            flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
            self.storages[key] = flat
        if len(size) > 64 or any(type(extent) is not int or not 0 <= extent < 1 << 63 for extent in size):
            raise ValueError(f"a tensor has the shape {quoted(tuple(size))}")
        if math.prod(size) > length:
            raise ValueError(f"a tensor of shape {tuple(size)} has more elements than its storage, {length}")
        self.bytes_left -= math.prod(size) * dtype.itemsize
        if self.bytes_left < 0:
            raise ValueError(f"its tensors together are more than {LARGEST_GROWTH} times as large as the file")
        return self.storages[key].as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)
