"""Paths in files of a folder: relative to the folder, so that they hold after it is moved and tell nothing of the machine.

A stored path begins with "./" or "../"; whatever else is stored is a name (of an encoder in the hub cache, say), or a path in
a file of linguarec 0.1, which is returned as it is.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

FLAG_PATHS = ("valid", "from", "backbone", "sources")  # keys of a run.yaml whose values are paths or names
_RELATIVE = (".", "..")


def portable(name: str | Path, base: Path) -> str:
    """The path relative to the folder `base`; a name that is neither an absolute path nor that of a file is returned as it is.

    >>> portable("/home/ann/data", Path("/home/ann/runs/first")), portable("all-MiniLM-L6-v2", Path("runs"))
    ('../../data', 'all-MiniLM-L6-v2')
    """
    path = Path(name).expanduser()
    if not path.is_absolute() and not path.exists():
        return str(name)
    # `resolve` would replace the names of symbolic links.
    relative = PurePath(os.path.relpath(path, base)).as_posix()
    return relative if relative.split("/")[0] in _RELATIVE else f"./{relative}"


def located(name: str, base: Path) -> str:
    """The inverse of `portable`, as an absolute path; names and paths of earlier versions are returned as they are.

    >>> located("../../data", Path("/home/ann/runs/first")), located("all-MiniLM-L6-v2", Path("runs"))
    ('/home/ann/data', 'all-MiniLM-L6-v2')
    """
    return os.path.abspath(base / name) if name.split("/")[0] in _RELATIVE else name  # noqa: PTH100


def portable_values(content: Mapping[str, Any], base: Path, keys: Collection[str]) -> dict[str, Any]:
    """JSON values, with the strings under `keys`, at any depth, made portable."""
    return _changed(content, keys, lambda name: portable(name, base))  # type: ignore[no-any-return]


def located_values(content: Mapping[str, Any], base: Path, keys: Collection[str]) -> dict[str, Any]:
    """The inverse of `portable_values`."""
    return _changed(content, keys, lambda name: located(name, base))  # type: ignore[no-any-return]


def places(name: str, near: Collection[Path]) -> Iterator[Path]:
    """Where the folder recorded as `name` may be now: there, or under its last name in or beside the folders `near`."""
    path = Path(name).expanduser()
    yield path
    for folder in near:
        for base in (folder, *Path(os.path.abspath(folder)).parents[:2]):  # noqa: PTH100
            yield base / path.name


def _changed(value: Any, keys: Collection[str], change: Callable[[str], str], inside: bool = False) -> Any:
    if isinstance(value, str):
        return change(value) if inside else value
    if isinstance(value, Mapping):
        return {key: _changed(each, keys, change, inside or key in keys) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_changed(each, keys, change, inside) for each in value]
    return value
