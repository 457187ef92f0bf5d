"""Runs on a hub: what is uploaded, what is opened, and what is refused. The hub is a stand-in on loopback."""

import hashlib
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hub_server import Hub, running_hub

import linguarec
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.data.synthetic import TINY, generate_world
from linguarec.errors import CheckpointMismatchError, OutputError, SettingsError
from linguarec.hub import Pushed, fingerprint_of, from_pretrained, push_to_hub, save_pretrained
from linguarec.nn.encoders import TransformerConfig
from linguarec.seals import SEAL_FILE, digest_of
from linguarec.training.settings import TrainingSettings

pytest.importorskip("huggingface_hub")
SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=20)
QUICK = TrainingSettings(max_epochs=1, targets_per_step=200, accelerator="cpu", precision="fp32")
HISTORY = ["i3", "i4"]
LARGE = ".git/info/lfs/objects/batch"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


@pytest.fixture
def run(make_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run, in a process that may use the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    domain = generate_world(seed=0, domains=1, size=TINY)[0]
    sequences = [domain.sequences[user].tolist() for user in range(len(domain.sequences))]
    dataset: PreparedDataset = make_dataset(sequences, num_items=len(domain.items), name="shop")
    finetune("sasrec", dataset.path, tmp_path / "run", transformer=SMALL, training=QUICK)
    return tmp_path / "run"


@pytest.fixture
def pushed(run: Path, hub: Hub, request: pytest.FixtureRequest) -> Pushed:
    name = f"ann/{hashlib.sha1(request.node.name.encode()).hexdigest()[:12]}"
    return push_to_hub(run, name, licence="apache-2.0", token=hub.token, endpoint=hub.address)


def opened(pushed: Pushed, hub: Hub, tmp_path: Path, **changed: Any) -> linguarec.Recommender:
    given = {"revision": pushed.revision, "fingerprint": pushed.fingerprint, **changed}
    return from_pretrained(pushed.repository, cache=tmp_path / "cache", endpoint=hub.address, **given)


def test_a_run_comes_back_as_it_was(
    run: Path, pushed: Pushed, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = linguarec.load_model(run), opened(pushed, hub, tmp_path)
    assert there.recommend(HISTORY) == here.recommend(HISTORY)
    assert hub.private[pushed.repository] is True and "POST /" + pushed.repository + LARGE in hub.asked
    files = hub.files(pushed.repository, pushed.revision)[1]
    assert "README.md" in files and "metrics.json" in files and "run.yaml" not in files
    assert {name.rpartition(".")[2] for name in files} == {"json", "safetensors", "npy", "parquet", "md"}
    hub.asked.clear()
    opened(pushed, hub, tmp_path)  # from the cache
    assert not [asked for asked in hub.asked if asked.startswith("GET") and "resolve" in asked]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert opened(pushed, hub, tmp_path).recommend(HISTORY) == here.recommend(HISTORY)


def test_a_second_push_replaces_all_files(run: Path, pushed: Pushed, hub: Hub, tmp_path: Path) -> None:
    kept = dict(hub.files(pushed.repository, "main")[1])
    hub.commit(pushed.repository, {**kept, "old.npy": b"old"})
    recommender = linguarec.load_model(run)
    recommender.remove_items(["i0"])
    recommender.save(run)
    again = push_to_hub(run, pushed.repository, token=hub.token, endpoint=hub.address)
    assert again.fingerprint != pushed.fingerprint and again.revision != pushed.revision
    assert "old.npy" not in hub.files(again.repository, "main")[1]
    assert bool(opened(again, hub, tmp_path).catalogue.removed[0]) is True
    assert bool(opened(pushed, hub, tmp_path).catalogue.removed[0]) is False  # the earlier commit is still that


def test_the_card(run: Path, tmp_path: Path) -> None:
    save_pretrained(run, tmp_path / "before")
    card = (tmp_path / "before/README.md").read_text()
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert f"| ndcg@10, items of the history are candidates | {test['ndcg@10']:.4f} | |" in card
    assert (
        "Without intervals" in card
        and "None is stated" in card
        and "license" not in yaml.safe_load(card.split("---")[1])
    )
    evaluate(run, plots=False)
    fingerprint = save_pretrained(run, tmp_path / "after", licence="mit", title="Shop")
    card = (tmp_path / "after/README.md").read_text()
    found = json.loads((run / "evaluation/test.json").read_text())["excluded"]["sasrec"]["ndcg@10"]
    row = f"{found['mean']:.4f} | {found['low']:.4f} to {found['high']:.4f}"
    assert f"| ndcg@10, without the items of the history | {row} |" in card
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "mit" and head["library_name"] == "linguarec" and "sasrec" in head["tags"]
    dataset = PreparedDataset.open(tmp_path / "shop")
    for line in (
        "# Shop",
        f"- users: {dataset.num_users:,}",
        f"- interactions: {dataset.num_interactions:,}",
        fingerprint,
    ):
        assert line in card
    assert "max_epochs: 1" in card and str(tmp_path) not in card and "../" not in card
    assert fingerprint == fingerprint_of(run) == fingerprint_of(tmp_path / "after")
    assert from_pretrained(tmp_path / "after", fingerprint=fingerprint).recommend(HISTORY)


@pytest.mark.parametrize("revision", [None, "main"])
def test_only_a_commit_is_a_revision(revision: str | None, pushed: Pushed, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"pin what it is now: revision='{pushed.revision}'"):
        opened(pushed, hub, tmp_path, revision=revision)


def tampered(hub: Hub, pushed: Pushed, name: str, data: bytes, scratch: Path) -> str:
    """A commit in which a file is replaced, and the seal fits it; `scratch`: a file to write."""
    files = {**hub.files(pushed.repository, pushed.revision)[1], name: data}
    seal = json.loads(files[SEAL_FILE])
    scratch.write_bytes(data)
    seal["files"][name] = digest_of(scratch)
    return hub.commit(pushed.repository, {**files, SEAL_FILE: json.dumps(seal).encode()})


class Harmful:
    """Its pickle writes a file when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def test_a_pickle_in_an_array_is_not_read(pushed: Pushed, hub: Hub, tmp_path: Path) -> None:
    harmful = np.empty((1,), dtype=object)
    harmful[0] = Harmful(tmp_path / "harmed")
    np.save(stream := io.BytesIO(), harmful, allow_pickle=True)
    revision = tampered(hub, pushed, "keys.npy", stream.getvalue(), tmp_path / "scratch")
    with pytest.raises(CheckpointMismatchError, match=r"keys.npy"):
        opened(pushed, hub, tmp_path, revision=revision, fingerprint=None)
    with pytest.raises(CheckpointMismatchError, match="holds other files than expected: their fingerprint is"):
        opened(pushed, hub, tmp_path, revision=revision)
    assert not (tmp_path / "harmed").exists()


def test_files_of_other_kinds_are_not_even_downloaded(pushed: Pushed, hub: Hub, tmp_path: Path) -> None:
    files = hub.files(pushed.repository, pushed.revision)[1]
    beside = hub.commit(pushed.repository, {**files, "model.bin": pickle.dumps(Harmful(tmp_path / "harmed"))})
    hub.asked.clear()
    assert opened(pushed, hub, tmp_path, revision=beside).recommend(HISTORY)
    assert not [asked for asked in hub.asked if "model.bin" in asked]
    for name in ("parts/model.bin", "tokens/../../outside.npy", "*.npy"):
        revision = tampered(hub, pushed, name, b"anything", tmp_path / "scratch")
        with pytest.raises(CheckpointMismatchError, match="which is no file of a run"):
            opened(pushed, hub, tmp_path, revision=revision, fingerprint=None)


def test_a_mixture_of_two_runs_is_refused(pushed: Pushed, hub: Hub, tmp_path: Path) -> None:
    files = dict(hub.files(pushed.repository, pushed.revision)[1])
    revision = hub.commit(pushed.repository, {**files, "keys.npy": files["keys.npy"][:-1] + b"x"})
    with pytest.raises(CheckpointMismatchError, match=r"keys.npy is not the file that was written with the others"):
        opened(pushed, hub, tmp_path, revision=revision, fingerprint=None)


def test_what_the_hub_refuses_is_an_error_that_names_the_repository(run: Path, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ann/shop: the hub refused or cannot be reached: .*401") as refused:
        push_to_hub(run, "ann/shop", token="wrong-token", endpoint=hub.address)
    assert "wrong-token" not in str(refused.value)
    with pytest.raises(CheckpointMismatchError, match=r"ann/none: the hub refused or cannot be reached: .*404"):
        from_pretrained("ann/none", revision="0" * 40, cache=tmp_path / "cache", endpoint=hub.address)
    with pytest.raises(CheckpointMismatchError, match="a/b/c: the hub refused or cannot be reached"):
        from_pretrained("a/b/c", revision="0" * 40, cache=tmp_path / "cache", endpoint=hub.address)
    with pytest.raises(SettingsError, match="is a folder and has no revisions"):
        from_pretrained(run, revision="0" * 40)


def test_an_unfinished_run_is_not_shared(run: Path, tmp_path: Path) -> None:
    (run / SEAL_FILE).unlink()
    with pytest.raises(CheckpointMismatchError, match=r"has no files.json: it is no finished run"):
        save_pretrained(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
