"""The files of a log or a catalogue: one file, a glob, a folder of parts, or an address that only the engine can open."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import ibis.expr.types as ir

from linguarec.data.attribute_names import same_names
from linguarec.errors import DataFormatError, quoted

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".txt")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)
_PARTITION = re.compile(r"([^=/]+)=([^/]*)")
_GLOB = re.compile(r"[*?\[]")


class TextForm(Protocol):
    """How rows are written in a text file. It can be pickled: Spark's workers read their parts by it."""

    @property
    def columns(self) -> dict[str, str]:
        """Names of the columns and their Ibis types."""

    @property
    def header_lines(self) -> int:
        """Lines before the first row."""

    @property
    def quote(self) -> str:
        """The character within which a line break does not end a row, "" if there is none."""

    def open(self, connection: Any, files: Sequence[str], name: str | None = None) -> ir.Table:
        """The files as a table of an Ibis connection to DuckDB, called `name`."""


@dataclass(frozen=True)
class SourceFiles:
    """Files that make up one table: their rows are numbered file by file, in the order of `paths`.

    `shown`: what messages call them. `remote`: `paths` is one address, which is handed to the engine as it is.
    `partitions`: keys of the `KEY=VALUE` folders, from the folder that was given down. `root`: the folder above the first one.
    """

    shown: str
    paths: tuple[str, ...]
    remote: bool = False
    partitions: tuple[str, ...] = ()
    root: str | None = None

    @classmethod
    def of(cls, given: "str | Path | SourceFiles") -> "SourceFiles":
        """The files that a path, a glob, a folder or an address names. Files of a glob or a folder are sorted by their path.

        Raises:
            DataFormatError: there is no such file, or a folder holds both Parquet and text.
        """
        if isinstance(given, SourceFiles):
            return given
        if address := as_address(given):
            return cls(address, (address,), remote=True)
        path = Path(given)
        top = path  # the folder that was given, or from which a glob starts
        if path.is_dir():
            found = _parts(path)
        elif not path.exists() and _GLOB.search(str(given)):
            matches = glob.glob(str(given), recursive=True)  # noqa: PTH207 - Path.glob needs the folder apart
            if not Path(given).name.startswith((".", "_")):  # unless the pattern asks for them
                matches = [each for each in matches if not _is_hidden(Path(Path(each).name))]
            found = [file for each in matches for file in _within(Path(each))]
            if not found:
                raise DataFormatError(
                    f"{given} matches no file; check the path, and quote it, so that the shell leaves it alone."
                )
            while _GLOB.search(str(top)):
                top = top.parent
        else:
            return cls(str(path), (str(path),))
        paths = sorted({str(file) for file in found})
        keys, root = _partitions(paths, len(top.parent.parts), str(given))
        return cls(str(given), tuple(paths), partitions=keys, root=root)

    @property
    def files(self) -> list[Path]:
        """The local files."""
        return [Path(path) for path in self.paths]

    def moved(self, files: Sequence[Path]) -> "SourceFiles":
        """The same rows in other files, such as unpacked copies."""
        return SourceFiles(self.shown, tuple(map(str, files)))

    @property
    def seems_parquet(self) -> bool:
        """Whether an address names Parquet files, by its suffix; one without a suffix is a folder of them."""
        name = PurePosixPath(self.paths[0].partition("?")[0]).name
        return name.endswith(PARQUET) or "." not in name


def as_address(given: "str | Path") -> str | None:
    """The address of an object store or a server that a text names (`s3://...`, `hdfs://...`), None if it is a local path."""
    text = str(given)
    found = _ADDRESS.match(text)
    if found is None or (isinstance(given, Path) and given.exists()):
        return None
    if "://" in text:
        return text
    slashes = ":///" if found[1] in ("hdfs", "file") else "://"  # a Path has made one slash of several
    return f"{found[1]}{slashes}{text[found.end() :]}"


def _within(path: Path) -> list[Path]:
    return _parts(path) if path.is_dir() else [path]


def _parts(folder: Path) -> list[Path]:
    """The parts in a folder, also in folders below it; hidden files and those that begin with _ are none."""
    files = [file for file in folder.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(folder))]
    parquet = [file for file in files if file.suffix in PARQUET]
    text = [file for file in files if set(file.suffixes) & set(TEXT)]
    if parquet and text:
        raise DataFormatError(
            f"{folder} holds Parquet files ({parquet[0].name}) and text ({text[0].name}); name one kind, as in "
            f"{folder}/*.parquet."
        )
    if not parquet and not text:
        raise DataFormatError(f"{folder} is a folder without Parquet or CSV files; check the path.")
    return parquet or text


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) and "=" not in part for part in relative.parts)


def _partitions(paths: Sequence[str], above: int, shown: str) -> tuple[tuple[str, ...], str | None]:
    """Keys of the `KEY=VALUE` folders, and the folder above the first of them.

    The first `above` parts of each path lead to the folder that was given: what they are called says nothing of its rows.
    """
    found = {
        path: [match[1] for part in Path(path).parts[above:-1] if (match := _PARTITION.fullmatch(part))]
        for path in paths
    }
    keys = found[paths[0]]
    for path, others in found.items():
        if others != keys:
            raise DataFormatError(
                f"{shown}: {path} lies below the partitions {', '.join(others) or 'none'}, but {paths[0]} below "
                f"{', '.join(keys) or 'none'}; all parts of one table need the same."
            )
    if not keys:
        return (), None
    if pair := same_names(keys):
        raise DataFormatError(f"{shown}: the partition {quoted(keys[pair[0]])} occurs twice in the path; rename one.")
    parts = Path(paths[0]).parts
    first = next(place for place, part in enumerate(parts) if place >= above and _PARTITION.fullmatch(part))
    return tuple(keys), str(Path(*parts[:first]))
