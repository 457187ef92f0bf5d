"""Atomic writes: write to a temporary path, then rename, so that a reader never sees a half-written file or folder."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from linguarec.errors import OutputError

AnyPath: TypeAlias = str | Path


def paths_of(folders: AnyPath | Sequence[AnyPath]) -> list[Path]:
    """One path or several as a list."""
    return [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]


@dataclass(frozen=True)
class Marker:
    """Identifies a folder that linguarec wrote: it holds the JSON file `file`, and this has the key `key`."""

    file: str
    key: str


@contextlib.contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds, remove it otherwise.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if _is_of_output(error, path, temporary):
            raise _as_output_error(error, path) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def writing_folder(path: Path, overwrite: bool = False, marker: Marker | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block succeeds, remove it otherwise.

    `overwrite` replaces only a folder that linguarec wrote: one with the `marker`, or, without a marker, one whose entries
    are all written again.

    Raises:
        OutputError: `path` exists already and may not be replaced, is not writable, or the disk is full.
    """
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        if not overwrite:
            raise OutputError(
                f"{path} exists already; choose another output folder, or pass --overwrite to replace it."
            )
        check_ours(path, marker)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    except OSError as error:
        raise _as_output_error(error, path) from error
    try:
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            if marker is None:
                _check_same_names(path, temporary)
            retired = temporary.with_suffix(".old")
            path.replace(retired)
            temporary.replace(path)
            shutil.rmtree(retired)
        else:
            temporary.replace(path)
    except OSError as error:
        if _is_of_output(error, path, temporary):
            raise _as_output_error(error, path) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_ours(path: Path, marker: Marker | None) -> None:
    """Refuse to replace a path that linguarec did not write: a file, or a folder without the `marker`.

    Raises:
        OutputError: linguarec did not write it.
    """
    if not path.is_dir():
        raise OutputError(f"{path} is a file, which --overwrite does not replace; choose another output folder.")
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


def _is_of_output(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether the error comes from writing `path` or `temporary`, not from reading another file."""
    if not isinstance(error.filename, str | os.PathLike) or error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        return True
    place, target = Path(error.filename).absolute(), path.absolute()
    return place.is_relative_to(temporary.absolute()) or place == target or place in target.parents


def _as_output_error(error: OSError, path: Path) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(f"The disk that holds {path.parent} is full; free some space or write elsewhere. ({error})")
    return OutputError(f"Cannot write {path}: {error.strerror or error}. Check that the folder exists and is writable.")
