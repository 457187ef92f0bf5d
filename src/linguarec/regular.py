"""Refuse what is no plain file before it is opened: a FIFO would wait for ever, and a device such as /dev/zero never ends."""

import stat
from collections.abc import Callable
from pathlib import Path

from linguarec.errors import LinguarecError

_KINDS: list[tuple[Callable[[int], bool], str]] = [
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
]


def check_regular(file: Path, error: Callable[[str], LinguarecError]) -> None:
    """Refuse a FIFO, a socket or a device; `error` is the class to raise. Opens nothing.

    A missing file and a folder pass: they have messages of their own where the file is read.
    """
    try:
        mode = file.stat().st_mode
    except OSError:
        return
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise error(f"{file} is {kind}, not a regular file; copy its content into a file of that name.")
