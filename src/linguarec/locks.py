"""One writer for each output: a lock that ends with the process that holds it, however that process ends.

The lock of `DIR/NAME` is a POSIX record lock on the file `DIR/.NAME.lock`, which holds the process id of its owner. The kernel
releases it when the owner dies; the file that then stays behind is taken over by the next owner.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from linguarec.errors import OutputError

try:
    import fcntl
except ImportError:  # not a POSIX system: outputs are then not locked
    fcntl = None  # type: ignore[assignment]


@dataclass
class _Held:
    """The lock of one path in this process: its threads take turns, and a thread may take it again."""

    turn: threading.RLock = field(default_factory=threading.RLock)
    depth: int = 0


_held: dict[Path, _Held] = {}
_changing = threading.Lock()


@contextlib.contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of an output; a thread that holds it may take it again, another thread of the process waits for it.

    `patience`: seconds to wait for another process.

    Raises:
        OutputError: another process writes this output; its process id is named.
        OSError: the lock file cannot be written.
    """
    place = Path(os.path.realpath(path))
    if not place.name:
        raise OutputError(f"{path} is the root of the file system; name a folder within it.")
    with _changing:
        held = _held.setdefault(place, _Held())
    with held.turn:
        if held.depth or fcntl is None:
            held.depth += 1
            try:
                yield
            finally:
                held.depth -= 1
            return
        file, handle = _acquire(place, path, time.monotonic() + patience)
        held.depth = 1
        try:
            yield
        finally:
            held.depth = 0
            with contextlib.suppress(OSError):
                file.unlink()  # while it is locked: who opened it meanwhile sees that it is no longer the lock
            os.close(handle)


def _acquire(place: Path, named: Path, until: float) -> tuple[Path, int]:
    """The lock file of a path and its open handle, locked; beside the path, or in it where its parent is not writable."""
    file = place.with_name(f".{place.name}.lock")
    if place.is_dir() and not os.access(place.parent, os.W_OK):
        file = place / ".lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    while (handle := _try(file)) is None:
        if time.monotonic() >= until:
            with contextlib.suppress(OSError):
                owner = file.read_text(encoding="ascii").strip()
                whose = f"another process (process id {owner})" if owner else "another process"
                raise OutputError(
                    f"{named} is being written by {whose}; wait for its end, or choose another output."
                ) from None
        time.sleep(0.02)
    return file, handle


def _try(file: Path) -> int | None:
    """The handle of the lock file if this process has locked it now, else None."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_same(handle, file):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            return handle
        # Its owner removed it between the two calls.
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            os.close(handle)
            raise
    os.close(handle)
    return None


def _is_same(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
