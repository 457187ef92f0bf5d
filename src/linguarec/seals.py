"""A folder's seal: `files.json` holds a digest of each file that was written with the others, so that a mixture is refused.

A folder becomes a mixture when files are copied from two versions of it, or when a process is killed while it replaces them one
by one. The seal does not protect against an author who wants to deceive: who can change a file can change the seal.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from linguarec.files import write_json
from linguarec.stored import Error, read_json

SEAL_FILE = "files.json"
WHOLE_UP_TO = 1 << 24  # bytes; a digest of a larger file reads this much of it, in blocks over its whole length
_BLOCK = 1 << 16


def digest_of(file: Path) -> str:
    """SHA-256 over the size and the content of a file, hexadecimal; of a file above 16 MiB over 256 blocks spread over it."""
    size = file.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with file.open("rb") as opened:
        if size <= WHOLE_UP_TO:
            while block := opened.read(1 << 20):
                digest.update(block)
        else:
            count = WHOLE_UP_TO // _BLOCK
            for number in range(count):
                opened.seek((size - _BLOCK) * number // (count - 1))
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()


def seal(folder: Path, belongs: Callable[[str], bool]) -> None:
    """Write the digests of the files of a folder for which `belongs` (relative path) is true; hidden files never belong."""
    found = {name: digest_of(folder / name) for name in sorted(_files(folder)) if belongs(name)}
    write_json(folder / SEAL_FILE, {"files": found})


def unseal(folder: Path) -> None:
    """Remove the seal before files are replaced one by one."""
    (folder / SEAL_FILE).unlink(missing_ok=True)


def check_seal(folder: Path, error: Error, mend: str) -> None:
    """Refuse a folder in which a sealed file is missing or another one; a folder without a seal is not checked.

    Raises:
        LinguarecError: as `error` makes it; the file is named.
    """
    file = folder / SEAL_FILE
    if not file.exists():
        return
    sealed = read_json(file, error, mend).get("files")
    if not isinstance(sealed, dict) or not all(isinstance(value, str) for value in sealed.values()):
        raise error(f'{file} is not a seal of linguarec: expected {{"files": {{NAME: DIGEST}}}}. {mend}')
    for name, digest in sealed.items():
        refused = _refused(folder, name, digest)
        if refused:
            raise error(
                f"{folder / name} {refused}, so the files of {folder} do not belong together. {mend} If you changed it on "
                f"purpose, delete {SEAL_FILE}."
            )


def _refused(folder: Path, name: str, digest: str) -> str | None:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return f"is named in {SEAL_FILE}, but lies outside the folder"
    if not path.is_file():
        return f"is missing, but {SEAL_FILE} names it"
    if digest_of(path) != digest:
        return f"is not the file that was written with the others ({SEAL_FILE} has another digest)"
    return None


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and relative.name != SEAL_FILE and not any(part.startswith(".") for part in relative.parts):
            yield relative.as_posix()
