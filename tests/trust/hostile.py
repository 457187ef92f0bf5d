"""Makers of files that do harm to a program that trusts them."""

import pickle
import signal
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class Runs:
    """Pickled as a call that creates the file `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def archive(file: Path, data: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A file like that of torch.save whose `data.pkl` is `data`."""
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("x/data.pkl", data)
        for key, content in (storages or {}).items():
            written.writestr(f"x/data/{key}", content)
    return file


def checkpoint_that_runs(file: Path, marker: Path, whole: dict[str, Any]) -> None:
    """A checkpoint as `whole` that creates `marker` when it is unpickled."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**whole, "stage": {**whole.get("stage", {}), "extra": Runs(marker)}}, file)


def pickled(*pieces: bytes) -> bytes:
    """Opcodes as a whole pickle of protocol 2."""
    return b"\x80\x02" + b"".join(pieces) + b"."


def opcodes_of(value: Any) -> bytes:
    """The opcodes of a plain value, without the frame of a pickle around them."""
    return pickle.dumps(value, 2)[2:-1]


class TookTooLongError(BaseException):
    """Not an Exception, so that nothing catches it."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """The block ends by an error after that time."""

    def late(number: int, frame: types.FrameType | None) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
