"""A hub that is broken or hostile: what it answers is refused by an error that names the repository, and runs nothing.

The hub is a stand-in (`hub_server`), whose answers a test replaces.
"""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostile import within
from hub_server import Hub, running_hub

from linguarec.errors import CheckpointMismatchError, LinguarecError, OutputError
from linguarec.hub import Pushed, from_pretrained, push_to_hub
from linguarec.recommender import Recommender
from linguarec.seals import SEAL_FILE

pytest.importorskip("huggingface_hub")
SECONDS = 30  # that an answer may take
Answer = Callable[[Any], None]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Iterator[None]:
    """The network may be used, and nobody waits before another try."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda seconds: None))
    hub.instead = None
    hub.asked.clear()
    hub.tokens.clear()
    yield
    hub.instead = None


@pytest.fixture(scope="module")
def pushed(hub: Hub, runs: dict[str, Path]) -> Pushed:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        return push_to_hub(runs["sasrec"], "ann/shop", token=hub.token, endpoint=hub.address)


def opened(pushed: Pushed, hub: Hub, cache: Path, **changed: Any) -> Recommender:
    given = {"revision": pushed.revision, "fingerprint": pushed.fingerprint, "token": hub.token, **changed}
    return from_pretrained(pushed.repository, cache=cache, endpoint=hub.address, **given)


def best_of(recommender: Recommender) -> list[tuple[str, float]]:
    return [(each.raw_id, each.score) for each in recommender.recommend([recommender.catalogue.raw_id(0)], k=10)]


def instead(hub: Hub, part: str, answer: Answer, method: str = "") -> None:
    """Requests whose path holds `part` get that answer."""

    def given(handler: Any) -> bool:
        if part not in handler.path or method not in handler.command:
            return False
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        answer(handler)
        return True

    hub.instead = given


def status(code: int) -> Answer:
    return lambda handler: handler.answer(code, b'{"error": "no"}', X_Error_Message="no")


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500, 503])
def test_what_the_hub_refuses(code: int, pushed: Pushed, hub: Hub, runs: dict[str, Path], tmp_path: Path) -> None:
    instead(hub, "", status(code))
    with pytest.raises(
        CheckpointMismatchError, match=rf"ann/shop: the hub refused or cannot be reached: .*{code}"
    ) as at:
        opened(pushed, hub, tmp_path / "cache")
    assert hub.token not in str(at.value)
    with pytest.raises(OutputError, match=rf"ann/shop: the hub refused or cannot be reached: .*{code}") as at:
        push_to_hub(runs["sasrec"], "ann/shop", token=hub.token, endpoint=hub.address)
    assert hub.token not in str(at.value)
    hub.instead = None
    assert best_of(opened(pushed, hub, tmp_path / "cache")) == best_of(Recommender.load(runs["sasrec"]))


def cut_off(handler: Any) -> None:
    """The connection ends, without an answer or within one."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


PAGE = b"<html><body>Please log in</body></html>"
ANSWERS: dict[str, tuple[str, Answer]] = {
    "a page instead of a seal": (SEAL_FILE, lambda handler: handler.part_of(PAGE, ETag='"a"', X_Repo_Commit="0" * 40)),
    "no object": (SEAL_FILE, lambda handler: handler.part_of(b"[1]", ETag='"b"', X_Repo_Commit="0" * 40)),
    "a seal of lists": (SEAL_FILE, lambda handler: handler.part_of(b'{"files": {"keys.npy": []}}', ETag='"c"')),
    "no commit and no hash": (SEAL_FILE, lambda handler: handler.part_of(b"{}")),
    "a page instead of a listing": ("/api/", lambda handler: handler.answer(200, PAGE, Content_Type="text/html")),
    "a listing that is a list": ("/api/", lambda handler: handler.json([1, [2]])),
    "a listing without names": ("/api/", lambda handler: handler.json({"sha": 3, "siblings": [{"x": 1}]})),
    "no answer": ("keys.npy", cut_off),
    "a file of 100 TB": (
        "keys.npy",
        lambda handler: handler.answer(
            302, Location=f"{handler.path}2", ETag='"d"', X_Linked_Size=str(10**14), X_Linked_ETag='"e"'
        ),
    ),
    "a redirection without an end": ("keys.npy", lambda handler: handler.answer(302, Location=handler.path)),
    "a redirection to a file": ("keys.npy", lambda handler: handler.answer(302, Location="file:///etc/hostname", ETag='"f"')),
    "a file that is missing": ("keys.npy", lambda handler: handler.missing("EntryNotFound")),
    "other content": ("keys.npy", lambda handler: handler.part_of(b"x" * 1000, ETag='"g"', X_Repo_Commit="0" * 40)),
    "a page instead of an array": ("keys.npy", lambda handler: handler.part_of(PAGE, ETag='"h"')),
}  # fmt: skip


@pytest.mark.parametrize("what", ANSWERS)
def test_answers_of_another_form(what: str, pushed: Pushed, hub: Hub, runs: dict[str, Path], tmp_path: Path) -> None:
    """Refused with the name of the repository or of the file; once the hub answers well, the same call works."""
    instead(hub, *ANSWERS[what])
    with within(SECONDS), pytest.raises(LinguarecError, match=r"ann/shop|models--ann--shop"):
        opened(pushed, hub, tmp_path / "cache", fingerprint=None)
    hub.instead = None
    found = opened(pushed, hub, tmp_path / "cache")
    assert best_of(found) == best_of(Recommender.load(runs["sasrec"]))


NAMES = [
    "../keys.npy", "/etc/keys.npy", "parts/../../../../keys.npy", "parts//keys.npy", "parts/./keys.npy", "C:keys.npy",
    "parts\\..\\keys.npy", "a\0.npy", "a\n.npy", "", ".", "..", "*.npy", "model.pt", "model.pkl", "parts/x.bin", "config.yaml",
    "README.md", "parts/" + "x" * 5000 + ".npy", "parts/[a].npy", "sub/keys.npy", "keys.npy/", "~/keys.npy",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_seal(name: str, pushed: Pushed, hub: Hub, tmp_path: Path) -> None:
    files = dict(hub.files(pushed.repository, pushed.revision)[1])
    seal = json.loads(files[SEAL_FILE])
    revision = hub.commit(
        "ann/names", {**files, SEAL_FILE: json.dumps({"files": {**seal["files"], name: "0" * 64}}).encode()}
    )
    hub.asked.clear()
    with pytest.raises(CheckpointMismatchError, match="which is no file of a run"):
        from_pretrained("ann/names", revision, cache=tmp_path / "cache", endpoint=hub.address)
    assert not [asked for asked in hub.asked if "/resolve/" in asked and not asked.endswith(SEAL_FILE)]


def test_names_in_a_listing(pushed: Pushed, hub: Hub, runs: dict[str, Path], tmp_path: Path) -> None:
    """What a repository lists beside the files of the run is not downloaded, whatever its name is."""
    files = dict(hub.files(pushed.repository, pushed.revision)[1])
    strange = dict.fromkeys(("../outside.npy", "/outside.npy", "a/../../b.json", "model.pkl", "x\n.npy"), b"harm")
    revision = hub.commit("ann/listing", {**files, **strange})
    found = from_pretrained("ann/listing", revision, cache=tmp_path / "cache", endpoint=hub.address)
    assert best_of(found) == best_of(Recommender.load(runs["sasrec"]))
    assert [file for file in tmp_path.rglob("*") if file.is_file() and file.read_bytes() == b"harm"] == []


def test_another_file_under_the_same_revision(pushed: Pushed, hub: Hub, runs: dict[str, Path], tmp_path: Path) -> None:
    """A hub that changes what a commit holds, with a seal that fits: the fingerprint finds it."""
    other = runs["sasrec"].parent / "other"
    recommender = Recommender.load(runs["sasrec"])
    recommender.remove_items([recommender.catalogue.raw_id(1)])
    recommender.save(other)
    again = push_to_hub(other, "ann/other", token=hub.token, endpoint=hub.address)
    files = hub.files("ann/other", again.revision)[1]
    hub.commits["ann/changed"] = [(pushed.revision, files)]
    changed = Pushed("ann/changed", pushed.revision, pushed.fingerprint)
    with pytest.raises(CheckpointMismatchError, match="holds other files than expected: their fingerprint is"):
        opened(changed, hub, tmp_path / "cache")
    assert opened(changed, hub, tmp_path / "cache", fingerprint=again.fingerprint).catalogue.removed[1]


def test_the_token_stays_with_the_hub(pushed: Pushed, hub: Hub, runs: dict[str, Path], tmp_path: Path) -> None:
    """Large files lie on another host, which a download is sent to, and an upload, without the token."""
    opened(pushed, hub, tmp_path / "cache")
    recommender = Recommender.load(runs["sasrec"])
    recommender.remove_items([recommender.catalogue.raw_id(2)])
    recommender.save(tmp_path / "less")
    push_to_hub(tmp_path / "less", "ann/token", token=hub.token, endpoint=hub.address)
    asked = {
        method.partition(" ")[0] for method, (host, _) in zip(hub.asked, hub.tokens, strict=True) if host == "localhost"
    }
    assert asked == {"GET", "PUT"}
    assert {token for host, token in hub.tokens if host == "localhost"} == {None}
    assert {token for host, token in hub.tokens if host == "127.0.0.1"} == {f"Bearer {hub.token}"}


@pytest.mark.parametrize("how", ["cut once", "cut always"])
def test_downloads_that_are_cut(how: str, pushed: Pushed, hub: Hub, runs: dict[str, Path], tmp_path: Path) -> None:
    left = [1 if how == "cut once" else 1000]

    def cut(handler: Any) -> bool:
        if not handler.path.startswith("/large/") or handler.command != "GET" or not left[0]:
            return False
        left[0] -= 1
        data = hub.large[handler.path.rpartition("/")[2]]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if how == "cut once":
            handler.wfile.write(data[: len(data) // 2])
        handler.wfile.flush()
        cut_off(handler)
        return True

    hub.instead = cut
    if how == "cut always":
        with pytest.raises(CheckpointMismatchError, match="ann/shop: the hub refused or cannot be reached"):
            opened(pushed, hub, tmp_path / "cache")
        names = {file.name for file in (tmp_path / "cache").rglob("snapshots/*/*")}
        whole = hub.files(pushed.repository, pushed.revision)[1]
        assert not [name for name in names if whole[name] != next((tmp_path / "cache").rglob(name)).read_bytes()]
        left[0] = 0
    found = opened(pushed, hub, tmp_path / "cache")
    assert best_of(found) == best_of(Recommender.load(runs["sasrec"]))


def test_a_damaged_download_is_downloaded_again(
    pushed: Pushed, hub: Hub, runs: dict[str, Path], tmp_path: Path
) -> None:
    opened(pushed, hub, tmp_path / "cache")
    [keys] = (tmp_path / "cache").rglob("snapshots/*/keys.npy")
    keys.write_bytes(keys.read_bytes()[:-1] + b"x")  # what the link leads to
    with pytest.raises(CheckpointMismatchError, match=r"(keys|inputs).npy is not the file .* removed from the cache"):
        opened(pushed, hub, tmp_path / "cache")
    assert best_of(opened(pushed, hub, tmp_path / "cache")) == best_of(Recommender.load(runs["sasrec"]))


def test_links_in_a_folder_are_not_followed_out_of_it(runs: dict[str, Path], tmp_path: Path) -> None:
    """A shared folder whose file is a link: it is read as a file if it is the one that was sealed, and never written."""
    shutil.copytree(runs["sasrec"], tmp_path / "run")
    (tmp_path / "secret.npy").write_bytes(b"mine")
    (tmp_path / "run" / "keys.npy").unlink()
    (tmp_path / "run" / "keys.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(CheckpointMismatchError, match=r"keys.npy"):
        from_pretrained(tmp_path / "run")
    assert (tmp_path / "secret.npy").read_bytes() == b"mine"
