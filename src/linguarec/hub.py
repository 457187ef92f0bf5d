"""Runs on a hub of models (huggingface_hub): saved with a model card, uploaded, downloaded and opened.

Only files that linguarec reads are moved: safetensors, JSON, Parquet, and NumPy arrays without pickled objects. A download is
pinned by a commit and, if the caller gives it, by a fingerprint of the files.
"""

import contextlib
import hashlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linguarec.errors import CheckpointMismatchError, LinguarecError, OutputError, SettingsError
from linguarec.families.opening import read_description
from linguarec.families.weights import needed
from linguarec.files import Marker, writing_folder
from linguarec.model_card import CARD_FILE, model_card, shared_files
from linguarec.recommender import Recommender
from linguarec.seals import SEAL_FILE, check_seal
from linguarec.stored import AGAIN, Error, read_json

_COMMIT = re.compile("[0-9a-f]{40}")
_SUFFIXES = (".json", ".safetensors", ".npy", ".npz", ".parquet")
_MARKER = Marker("config.json", "model")


@dataclass(frozen=True)
class Pushed:
    """Where a run was uploaded: `from_pretrained(repository, revision, fingerprint)` opens exactly this one."""

    repository: str
    revision: str
    fingerprint: str


def save_pretrained(
    run: str | Path, folder: str | Path, licence: str | None = None, title: str | None = None, overwrite: bool = False
) -> str:
    """Copy the files of a run that others need into a folder, with a model card; returns their fingerprint.

    Args:
        run: run folder.
        folder: to write.
        licence: identifier of the licence, such as apache-2.0, for the card.
        title: heading of the card; None = the name of the run folder.
        overwrite: replace the folder if it exists.

    Raises:
        CheckpointMismatchError: the run is not complete, or its files do not belong together.
        OutputError: the folder exists already or cannot be written.
    """
    run, folder = Path(run), Path(folder)
    read_description(run)
    names = _sealed(run)
    fingerprint = fingerprint_of(run)
    card = model_card(run, fingerprint, licence, title)
    with writing_folder(folder, overwrite, _MARKER) as target:
        for name in shared_files(run, names):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / name, target / name)
        (target / CARD_FILE).write_text(card, encoding="utf-8")
    return fingerprint


def push_to_hub(
    run: str | Path,
    repository: str,
    licence: str | None = None,
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
) -> Pushed:
    """Upload a run as one commit, which replaces what the repository holds; it is made if it does not exist.

    Args:
        run: run folder.
        repository: "owner/name".
        licence: identifier of the licence, such as apache-2.0, for the card.
        private: whether a new repository is private.
        token: of the hub; None = the one that `hf auth login` stored.
        endpoint: address of another hub; None = that of huggingface_hub.

    Raises:
        CheckpointMismatchError: the run is not complete, or its files do not belong together.
        OutputError: the hub cannot be reached or refuses.
        SettingsError: huggingface_hub is not installed.
    """
    api = _api(token, endpoint)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        fingerprint = save_pretrained(run, folder, licence, repository.rpartition("/")[2])
        with _hub_errors(repository, OutputError), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="It seems that you are about to commit a data file"
            )  # the catalogue
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, delete_patterns="*", commit_message="Upload a run of linguarec"
            )
    return Pushed(repository, commit.oid, fingerprint)


def from_pretrained(
    name: str | Path,
    revision: str | None = None,
    fingerprint: str | None = None,
    token: str | None = None,
    cache: str | Path | None = None,
    endpoint: str | None = None,
) -> Recommender:
    """Open a run of a hub, or a folder. No code from it is run and nothing is unpickled.

    Args:
        name: "owner/name" on the hub, or a folder.
        revision: commit on the hub, 40 hexadecimal digits. A branch is refused, because it may change.
        fingerprint: that `push_to_hub` or the model card gave; None = not compared.
        token: of the hub; None = the one that `hf auth login` stored.
        cache: folder for downloads; None = that of huggingface_hub.
        endpoint: address of another hub; None = that of huggingface_hub.

    Raises:
        SettingsError: the revision is no commit, or huggingface_hub is not installed.
        CheckpointMismatchError: the hub cannot be reached or has no such run; or the files are damaged, do not belong together,
            or have another fingerprint.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise SettingsError([f"{folder} is a folder and has no revisions; leave out revision={revision!r}"])
    else:
        folder = _downloaded(str(name), revision, _api(token, endpoint), cache)
    if fingerprint is not None and (found := fingerprint_of(folder)) != fingerprint:
        raise CheckpointMismatchError(
            f"{folder} holds other files than expected: their fingerprint is {found}, not {fingerprint}. Do not use them "
            "unless you know why they changed."
        )
    return Recommender.load(folder)


def fingerprint_of(folder: Path) -> str:
    """SHA-256 over the names and the whole content of all files that a run is opened from, hexadecimal."""
    total = hashlib.sha256()
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    for name in sorted(name for name in files if needed(name) and not name.startswith(".")):
        with (folder / name).open("rb") as opened:
            total.update(f"{hashlib.file_digest(opened, 'sha256').hexdigest()} {name}\n".encode())
    return total.hexdigest()


def _downloaded(repository: str, revision: str | None, api: Any, cache: str | Path | None) -> Path:
    """The folder in the cache with the files that the seal names, and no others."""
    if revision is None or not _COMMIT.fullmatch(revision):
        with _hub_errors(repository, CheckpointMismatchError):
            now = api.model_info(repository, revision=revision).sha
        asked = "no revision is given" if revision is None else f"revision {revision!r} is not a commit"
        raise SettingsError([f"{asked}, so {repository} could change; pin what it is now: revision={now!r}"])
    place = {"repo_id": repository, "revision": revision, "cache_dir": cache}
    with _hub_errors(repository, CheckpointMismatchError):
        api.hf_hub_download(filename=SEAL_FILE, **place)
        folder = Path(api.snapshot_download(allow_patterns=[SEAL_FILE], **place))
        names = _names(folder, CheckpointMismatchError)
        api.snapshot_download(allow_patterns=[SEAL_FILE, *names], **place)
    _sealed(folder)
    return folder


def _sealed(folder: Path) -> list[str]:
    """Names of the files that a model folder is opened from, checked against its seal.

    Raises:
        CheckpointMismatchError: there is no seal, or a file is missing, another one, or of a kind that is not read.
    """
    if not (folder / SEAL_FILE).is_file():
        raise CheckpointMismatchError(
            f"{folder} has no {SEAL_FILE}: it is no finished run of this linguarec. Save it again: "
            "linguarec.load_model(RUN).save(RUN)."
        )
    names = _names(folder, CheckpointMismatchError)
    check_seal(folder, CheckpointMismatchError, AGAIN)
    return names


def _names(folder: Path, error: Error) -> list[str]:
    """The names in the seal.

    Raises:
        LinguarecError: as `error` makes it: it is no seal, or names a file of a kind that linguarec does not read.
    """
    sealed = read_json(folder / SEAL_FILE, error, AGAIN).get("files")
    if not isinstance(sealed, dict):
        raise error(f"{folder / SEAL_FILE} is not a seal of linguarec. {AGAIN}")
    for name in sealed:
        if not needed(name) or not name.endswith(_SUFFIXES) or ".." in Path(name).parts or set(name) & set("*?["):
            raise error(f"{folder / SEAL_FILE} names {name!r}, which is no file of a run.")
    return list(sealed)


def _api(token: str | None, endpoint: str | None) -> Any:
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as error:
        raise SettingsError([f"a hub needs {error.name}: pip install 'linguarec[hub]'"]) from error
    return HfApi(endpoint=endpoint, token=token, library_name="linguarec")


@contextlib.contextmanager
def _hub_errors(repository: str, kind: type[LinguarecError]) -> Iterator[None]:
    """Errors of huggingface_hub name the repository.

    Raises:
        LinguarecError: as `kind` makes it.
    """
    import httpx2
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except (httpx2.HTTPError, HFValidationError, OSError) as error:  # those of the hub's answers are of the last class
        reason = " ".join(str(error).split())
        raise kind(f"{repository}: the hub refused or cannot be reached: {reason}") from error
