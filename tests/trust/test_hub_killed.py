"""Uploads and downloads, killed before each of their requests and file operations; and every kind of run that goes to a hub."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, running_hub
from killing import Killer

from linguarec.commands.evaluate import evaluate
from linguarec.hub import Pushed, from_pretrained, push_to_hub
from linguarec.recommender import Recommender

pytest.importorskip("huggingface_hub")
WHOLE = int(os.environ.get("LINGUAREC_TRUST", "1")) > 1
CALLS = str(Path(__file__).parents[1] / "support" / "hub_calls.py")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with Killer() as started:
        yield started


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def best(recommender: Recommender, **settings: Any) -> list[list[tuple[str, float]]]:
    ids = recommender.catalogue.raw_ids
    histories = [[ids[row], ids[(7 * row + 3) % len(ids)]] for row in range(20)]
    return [
        [(each.raw_id, each.score) for each in found] for found in recommender.recommend(histories, k=10, **settings)
    ]


@pytest.mark.parametrize("name", ["sasrec", "unisrec", "vqrec", "recformer", "ease", "blend"])
def test_every_kind_of_run_comes_back(name: str, runs: dict[str, Path], hub: Hub, tmp_path: Path) -> None:
    run = runs[name]
    pushed = push_to_hub(run, f"ann/{name}", token=hub.token, endpoint=hub.address)
    moved = run.with_name(f"{run.name}-away")
    run.rename(moved)  # nothing of the run is needed where it is opened
    try:
        there = from_pretrained(
            f"ann/{name}", pushed.revision, pushed.fingerprint, cache=tmp_path / "cache", endpoint=hub.address
        )
        here = Recommender.load(moved)
        assert best(there) == best(here)
        assert best(there, exclude_seen="learned") == best(here, exclude_seen="learned")
    finally:
        moved.rename(run)
    kinds = {file.rpartition(".")[2] for file in hub.files(f"ann/{name}", pushed.revision)[1]}
    assert kinds <= {"json", "safetensors", "npy", "npz", "parquet", "md"}


def test_the_card_of_a_blend(runs: dict[str, Path], shop: Path, hub: Hub, tmp_path: Path) -> None:
    run = tmp_path / "blend"
    shutil.copytree(runs["blend"], run)
    for evaluated in (False, True):
        if evaluated:
            evaluate(run, shop, plots=False)
        pushed = push_to_hub(run, "ann/card", token=hub.token, endpoint=hub.address)
        card = hub.files("ann/card", pushed.revision)[1]["README.md"].decode()
        assert "| recformer |" in card and "| ease |" in card and "| unisrec |" in card
        assert f"trained on: {shop.name}, split leave-one-out, seed 0" in card
        assert card.count("| ndcg@10, ") == 3  # kept, excluded, learned
        assert ("Without intervals" in card) is not evaluated
        assert pushed.fingerprint in card


def chosen(operations: list[str]) -> list[int]:
    """Which operations are tried: all if LINGUAREC_TRUST is above 1, else the requests that change the hub and some others."""
    changing = [number for number, name in enumerate(operations) if name.startswith(("request POST", "request PUT"))]
    return sorted({*changing, *range(0, len(operations), 5)}) if not WHOLE else list(range(len(operations)))


def test_a_push_is_the_old_commit_or_the_new_one(
    runs: dict[str, Path], hub: Hub, killer: Killer, tmp_path: Path
) -> None:
    root = tmp_path / "w"
    shutil.copytree(runs["sasrec"], root / "run")
    words = [CALLS, hub.address, hub.token, "push", str(root / "run"), "ann/killed"]
    done = killer.run(root, words)
    assert done["code"] == 0, done["said"]
    after = hub.commits["ann/killed"][-1][1]
    requests = [operation for operation in done["operations"] if operation.startswith("request")]
    assert done["operations"] == requests  # nothing is written on this machine
    before = {"README.md": b"of before", "gone.npy": b"old"}
    for number in chosen(requests):
        hub.commits["ann/killed"] = []
        hub.large.clear()
        hub.commit("ann/killed", before)
        assert killer.run(root, words, kill_at=number)["code"] == -9
        assert hub.commits["ann/killed"][-1][1] == before, requests[number]
        again = killer.run(root, words)
        assert again["code"] == 0, again["said"]
        assert hub.commits["ann/killed"][-1][1] == after, requests[number]
        assert len(hub.commits["ann/killed"]) == 2  # one commit, however it is uploaded


def test_a_killed_download_goes_on(runs: dict[str, Path], hub: Hub, killer: Killer, tmp_path: Path) -> None:
    pushed: Pushed = push_to_hub(runs["sasrec"], "ann/download", token=hub.token, endpoint=hub.address)
    root = tmp_path / "w"
    place = ["ann/download", pushed.revision, pushed.fingerprint, str(root / "cache")]
    words = [CALLS, hub.address, hub.token, "open", *place]
    root.mkdir()
    done = killer.run(root, words)
    assert done["code"] == 0, done["said"]
    whole = hub.files("ann/download", pushed.revision)[1]
    for number in range(0, len(done["operations"]), 1 if WHOLE else 12):
        shutil.rmtree(root)
        root.mkdir()
        killed = killer.run(root, words, kill_at=number)
        assert killed["code"] == -9
        where = f"killed before {number}: {killed['operations'][-1:]}"
        there = [file for file in root.rglob("snapshots/*/*") if file.is_file()]
        assert [file.name for file in there if file.read_bytes() != whole[file.name]] == [], where
        again = killer.run(root, words)
        assert again["code"] == 0, f"{where}\n{again['said']}"
