"""Atomic writes: write to a temporary path, then rename, so that a reader never sees a half-written file or folder.

What a killed process leaves is a hidden `.NAME.*.partial`; the next writer of NAME removes it.
"""

import contextlib
import errno
import functools
import hashlib
import inspect
import json
import logging
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

from linguarec.disk_errors import disk_error
from linguarec.errors import LinguarecError, OutputError
from linguarec.exchange import exchange
from linguarec.locks import locked

log = logging.getLogger(__name__)
AnyPath: TypeAlias = str | Path
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_TOKEN = secrets.token_hex(4)  # of this process


def paths_of(folders: AnyPath | Sequence[AnyPath]) -> list[Path]:
    """One path or several as a list."""
    return [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]


@dataclass(frozen=True)
class Marker:
    """Identifies a folder that linguarec wrote: it holds the JSON file `file`, and this has the key `key`."""

    file: str
    key: str


@contextlib.contextmanager
def writing_file(path: Path, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds, remove it otherwise.

    The file is on the disk before it replaces another, and has the usual mode of this process (umask). `needed`: its bytes,
    where they are known beforehand; a disk with less is then refused at once.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    temporary = _beside(path)
    try:
        with _output_errors(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_left_behind(path)
            if needed > (free := shutil.disk_usage(path.parent).free):
                raise OutputError(
                    f"There is no space left for {path}: {needed:,} bytes are needed, {free:,} are free on the disk of "
                    f"{path.parent}. Free some, or write elsewhere."
                )
            temporary.touch(exist_ok=False)
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            temporary.chmod(mode)  # some libraries make their own file, for its owner alone
            _to_disk(temporary)
            temporary.replace(path)
            _to_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def writing_folder(path: Path, overwrite: bool = False, marker: Marker | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; put it in the place of `path` when the block succeeds, remove it otherwise.

    The output is locked meanwhile. `overwrite` replaces only a folder that linguarec wrote: one with the `marker`, or, without
    a marker, one whose entries are all written again.

    Raises:
        OutputError: `path` exists already and may not be replaced, another process writes it, it is not writable, or the disk
            is full.
    """
    path = followed(path)
    with owned(path):
        check_free(path, overwrite, marker)
        with _temporary_folder(path) as temporary:
            yield temporary
            if marker is None and path.exists():
                _check_same_names(path, temporary)
            put_in_place(temporary, path)


@contextlib.contextmanager
def updating_folder(path: Path, patience: float = 0.0) -> Iterator[Path]:
    """Yield a copy of the folder `path`, made of hard links; put it in its place when the block succeeds, else remove it.

    So files are replaced and added all at once. Files in the copy must be replaced (`writing_file`), never changed in place. A
    folder that does not exist is made. One that cannot be exchanged (a mount point, or in a folder that is not writable) is
    yielded itself: its seal (`linguarec.seals`) then tells a reader whether all files were written. `patience`: seconds to wait
    for another process that writes it.

    Raises:
        OutputError: another process writes it, it is not writable, or the disk is full.
    """
    path = followed(path)
    with owned(path, patience):
        if path.is_dir() and (path.is_mount() or not os.access(path.parent, os.W_OK)):
            yield path
            return
        with _temporary_folder(path) as temporary:
            if path.exists():
                passing = shutil.ignore_patterns(".*.partial", ".*.lock", ".lock")
                shutil.copytree(path, temporary, symlinks=True, ignore=passing, copy_function=_link, dirs_exist_ok=True)
            yield temporary
            put_in_place(temporary, path)


@contextlib.contextmanager
def owned(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of an output (see `linguarec.locks`), after clearing up what a killed process left beside it.

    `patience`: seconds to wait for another process.

    Raises:
        OutputError: another process writes it, or its folder is not writable.
    """
    path = followed(path)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(path, patience))
            _put_back(path)
            _remove_left_behind(path)
        except OSError as error:
            raise _as_output_error(error, path) from error
        yield


def clear_up(path: Path, patience: float = 0.0) -> None:
    """Remove what a killed process left beside an output, as every writer of it does first.

    Raises:
        OutputError: another process writes it, or its folder is not writable.
    """
    with owned(path, patience):
        pass


def one_writer(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Hold the lock of a command's `output` while it runs; the decorator of commands that fill a folder part by part."""
    signature = inspect.signature(command)

    @functools.wraps(command)
    def alone(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        with owned(Path(bound.arguments["output"])):
            return command(*arguments, **named)

    return alone


def put_in_place(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`, which may exist, and remove the old one; both are on one disk.

    At each moment `path` is the old folder or the new one. Where the system cannot exchange folders, a process that is killed
    between two renames leaves the old folder as `.NAME.old`, and the next writer of `path` puts it back.

    Raises:
        OSError: it cannot be renamed, for instance because `path` is a mount point.
    """
    for folder, _, names in os.walk(new):
        for name in names:
            _to_disk(Path(folder, name))
        _to_disk(Path(folder))
    if not path.exists():
        new.replace(path)
        retired = None
    elif exchange(new, path):
        retired = new
    else:
        retired = _retired(path)
        path.replace(retired)
        new.replace(path)
    _to_disk(path.parent)
    if retired is not None:
        shutil.rmtree(retired, ignore_errors=True)


def check_free(path: Path, overwrite: bool, marker: Marker | None) -> None:
    """Refuse an output folder that holds something already, unless `overwrite` may replace it.

    Raises:
        OutputError: the path exists and may not be replaced.
    """
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        if not overwrite and path.is_dir():
            raise OutputError(
                f"{path} exists already; choose another place or name, or pass --overwrite to replace it."
            )
        check_ours(path, marker)


def absence(path: Path) -> str:
    """Why a folder is not there, as the end of a sentence: what a process that was killed left of it is named."""
    if _retired(path).exists():
        return (
            f"there is no such folder: a process that was killed while it replaced it left it as {_retired(path)}; rename it, "
            "or run the command again, which puts it back"
        )
    return "there is no such folder"


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    temporary = _beside(path)
    try:
        with _output_errors(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def followed(path: Path) -> Path:
    """The folder itself where `path` is a symbolic link to one (the folder is replaced, not the link), or has no name (".")."""
    return Path(os.path.realpath(path)) if path.is_symlink() or path.name in ("", "..") else path


def _beside(path: Path) -> Path:
    """A new hidden path beside `path`. Its name has the process and the machine, so that others know whose it is."""
    return path.with_name(f".{path.name}.{os.getpid()}.{_machine()}.{_TOKEN}{secrets.token_hex(4)}.partial")


def _remove_left_behind(path: Path) -> None:
    """Remove the temporary files and folders for `path` of processes of this machine that are no more, and their locks."""
    prefix, suffix = f".{path.name}.", f".{_machine()}."
    for left in path.parent.iterdir():
        names = (left.name, left.name[1:].removesuffix(".lock"))  # a temporary folder may be locked itself
        name = next((name for name in names if name.startswith(prefix) and name.endswith(".partial")), None)
        if name is None:
            continue
        process, separator, rest = name.removeprefix(prefix).partition(suffix)
        if not separator or not process.isdigit() or _lives(int(process), rest[: len(_TOKEN)]):
            continue
        log.warning("removed %s, which a process that was killed left behind", left)
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _put_back(path: Path) -> None:
    """Undo or complete the replacement of a folder during which a process was killed; the caller holds the lock of `path`."""
    retired = _retired(path)
    if retired.exists():
        if path.exists():
            shutil.rmtree(retired)
        else:
            retired.replace(path)
            log.warning("put back %s, which a process that was killed while it replaced it left as %s", path, retired)


def _retired(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _lives(process: int, token: str) -> bool:
    if process == os.getpid():
        return token == _TOKEN  # in a container that is started again, the main process has the same id
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is of another user
    return True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        shutil.copy2(source, target, follow_symlinks=False)  # this file system has no hard links


def _to_disk(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk, so that no power failure undoes them."""
    if path.is_symlink():
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
            raise
    finally:
        os.close(handle)


def check_ours(path: Path, marker: Marker | None) -> None:
    """Refuse to replace a path that linguarec did not write: a file, or a folder without the `marker`.

    Raises:
        OutputError: linguarec did not write it.
    """
    if not path.is_dir():
        raise OutputError(f"{path} is a file, which is never replaced by a folder; choose another output folder.")
    if marker is not None and not _is_marked(path, marker):
        raise OutputError(
            f"{path} has no {marker.file} that linguarec wrote, so it holds something else than this command writes, and "
            "--overwrite does not replace it; choose another output folder, or delete it yourself."
        )


def _is_marked(path: Path, marker: Marker) -> bool:
    try:
        found = json.loads((path / marker.file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and marker.key in found


def _check_same_names(path: Path, new: Path) -> None:
    strange = sorted({entry.name for entry in path.iterdir()} - {entry.name for entry in new.iterdir()})
    if strange:
        raise OutputError(
            f"{path} holds {strange[0]}, which this command would not write again, so --overwrite does not replace the folder; "
            "choose another one, or delete it yourself."
        )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with writing_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _output_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Errors of writing `temporary` become those of the output `path`; libraries raise classes of their own for a full disk.

    Raises:
        OutputError: the output cannot be written.
    """
    try:
        yield
    except LinguarecError:
        raise
    except Exception as error:
        if (full := disk_error(error)) is not None:
            raise _as_output_error(full, path) from error
        if isinstance(error, OSError) and _is_of_output(error, path, temporary):
            raise _as_output_error(error, path) from error
        raise


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _is_of_output(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether the error comes from writing `path` or `temporary`, not from reading another file."""
    if not isinstance(error.filename, str | os.PathLike):
        return True
    place, target = Path(error.filename).absolute(), path.absolute()
    return place.is_relative_to(temporary.absolute()) or place == target or place in target.parents


def _as_output_error(error: OSError, path: Path) -> OutputError:
    if error.errno in NO_SPACE:
        return OutputError(f"There is no space left for {path}: {_space(path, error)}. Free some, or write elsewhere.")
    if error.errno == errno.EBUSY:
        return OutputError(f"{path} is a mount point, which cannot be replaced as a whole; name a folder within it.")
    if file := next((parent for parent in path.parents if parent.is_file()), None):
        return OutputError(f"Cannot write {path}: {file} is a file, not a folder. Name another place.")
    return OutputError(f"Cannot write {path}: {error.strerror or error}. Check that the folder exists and is writable.")


def _space(path: Path, error: OSError) -> str:
    """What is known of the disk that is full."""
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    reason = error.strerror or str(error)
    if error.errno == errno.EFBIG:
        return f"{reason} (the limit of this process, `ulimit -f`)"
    with contextlib.suppress(OSError):
        return f"{reason}; {shutil.disk_usage(folder).free:,} bytes are free on the disk of {folder}"
    return reason
