"""Refuses files that are not regular: reading a pipe or a device could wait forever."""

import stat
from collections.abc import Callable
from pathlib import Path

from linguarec.errors import LinguarecError


def check_regular(file: Path, error: Callable[[str], LinguarecError]) -> None:
    """Refuse an existing path that is neither a regular file nor a folder.

    Raises:
        LinguarecError: it is a pipe, a socket or a device; made by `error`.
    """
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError):  # missing, or no possible name; the reader says so
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise error(f"{file} is a pipe, a socket or a device, expected a regular file. Copy its content into a file.")
