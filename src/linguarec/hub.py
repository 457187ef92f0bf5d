"""Runs on a hub of models (huggingface_hub): saved with a model card, uploaded, downloaded and opened.

Only files that linguarec reads are moved: safetensors, JSON, Parquet, and NumPy arrays without pickled objects. A download is
pinned by a commit and, if the caller gives it, by a fingerprint of the files.
"""

import contextlib
import hashlib
import re
import shutil
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
from linguarec.seals import SEAL_FILE, check_seal, digest_of
from linguarec.stored import AGAIN, read_json

_COMMIT = re.compile("[0-9a-f]{40}")
_PLAIN = re.compile(r"[^*?\[\\:\x00-\x1f\x7f]{1,500}")  # no pattern, drive, other separator or control character
_SUFFIXES = (".json", ".safetensors", ".npy", ".npz", ".parquet")
_LONGEST, _ERRORS = 400, 3  # characters of an error, errors behind each other
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
    run = Path(run)
    read_description(run)
    names = shared_files(run, _sealed(run))
    fingerprint = fingerprint_of(run)
    card = model_card(run, fingerprint, licence, repository.rpartition("/")[2])
    with _hub_errors(repository, OutputError), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")  # the catalogue
        api.create_repo(repository, private=private, exist_ok=True)
        changes = [*_additions(run, names, card), *_deletions(api, repository, {*names, CARD_FILE})]
        with _by_lfs_elsewhere(api.endpoint):  # not upload_folder: with hf_xet it makes several commits
            commit = api.create_commit(repository, changes, commit_message="Upload a run of linguarec")
    return Pushed(repository, commit.oid, fingerprint)


def _additions(run: Path, names: list[str], card: str) -> list[Any]:
    """The operations of a commit that add the files `names` of a run, and its card."""
    from huggingface_hub import CommitOperationAdd

    files = [CommitOperationAdd(name, run / name) for name in names]
    return [*files, CommitOperationAdd(CARD_FILE, card.encode())]


@contextlib.contextmanager
def _by_lfs_elsewhere(endpoint: str) -> Iterator[None]:
    """Large files go by Git LFS to other hubs than Hugging Face's, which may have no Xet; hf_xet would insist on it."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or endpoint.rstrip("/") != constants.HUGGINGFACE_CO_URL_HOME.rstrip("/")
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def _deletions(api: Any, repository: str, kept: set[str]) -> list[Any]:
    """The operations of a commit that delete what a repository holds beside `kept`."""
    from huggingface_hub import CommitOperationDelete

    return [
        CommitOperationDelete(name, is_folder=False)
        for name in api.list_repo_files(repository)
        if name not in kept and name != ".gitattributes"
    ]


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
        folder = Path(api.hf_hub_download(filename=SEAL_FILE, **place)).parent
    try:
        names = _names(folder)
        with _hub_errors(repository, CheckpointMismatchError):
            api.snapshot_download(allow_patterns=[SEAL_FILE, *names], **place)
        _sealed(folder)
    except CheckpointMismatchError as error:
        _forget(folder)
        raise CheckpointMismatchError(
            f"{repository}: {error} What does not fit was removed from the cache, so that the next call downloads it again."
        ) from error
    return folder


def _forget(folder: Path) -> None:
    """Remove from the cache what is not as the seal says, or the seal itself, so that the next call downloads it again."""
    seal = folder / SEAL_FILE
    try:
        sealed = {name: read_json(seal, CheckpointMismatchError, AGAIN)["files"][name] for name in _names(folder)}
    except CheckpointMismatchError:
        wrong = [seal]
    else:
        there = {folder / name: digest for name, digest in sealed.items() if (folder / name).is_file()}
        wrong = [file for file, digest in there.items() if digest_of(file) != digest]
    for file in wrong:
        for place in (file.resolve(), file):  # a link, and what it leads to in the cache
            if place.is_relative_to(folder.resolve().parents[1]):
                place.unlink(missing_ok=True)


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
    names = _names(folder)
    check_seal(folder, CheckpointMismatchError, AGAIN)
    return names


def _names(folder: Path) -> list[str]:
    """The names in the seal.

    Raises:
        CheckpointMismatchError: it is no seal, or names a file of a kind that linguarec does not read.
    """
    seal = folder / SEAL_FILE
    sealed = read_json(seal, CheckpointMismatchError, AGAIN).get("files")
    if not isinstance(sealed, dict):
        raise CheckpointMismatchError(f"{seal} is not a seal of linguarec. {AGAIN}")
    for name in sealed:
        parts = name.split("/")
        strange = any(part in ("", ".", "..") for part in parts) or not _PLAIN.fullmatch(name)
        if strange or not needed(name) or not name.endswith(_SUFFIXES):
            raise CheckpointMismatchError(f"{seal} names {name[:200]!r}, which is no file of a run.")
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
    except LinguarecError:
        raise
    except (httpx2.HTTPError, HFValidationError, OSError) as error:  # those of the hub's answers are of the last class
        raise kind(f"{repository}: the hub refused or cannot be reached: {_reason(error)}") from error
    except Exception as error:  # whatever huggingface_hub raises for an answer of another form
        reason = f"{type(error).__name__}: {_reason(error)}"
        raise kind(f"{repository}: the hub's answer cannot be read ({reason})") from error


def _reason(error: BaseException) -> str:
    """What an error says, and the errors behind it: huggingface_hub replaces the hub's answer by advice."""
    said: list[str] = []
    found: BaseException | None = error
    while found is not None and len(said) < _ERRORS:
        said.append(" ".join(str(found).split())[:_LONGEST] or type(found).__name__)
        found = found.__cause__
    return "; because: ".join(dict.fromkeys(said))
