"""One writer for each output, modes of files, and seals: what lies in a folder was written together."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, DataFormatError, OutputError, StaleFeaturesError
from linguarec.files import owned, updating_folder, writing_file, writing_folder
from linguarec.locks import locked
from linguarec.nn.encoders import TransformerConfig
from linguarec.recommender import Recommender
from linguarec.seals import SEAL_FILE, WHOLE_UP_TO, check_seal, digest_of, seal
from linguarec.training.settings import TrainingSettings

SMALL_TRAINING: dict[str, Any] = {
    "transformer": TransformerConfig(hidden_size=8, layers=1, heads=1, inner_size=8, max_length=6),
    "training": TrainingSettings(max_epochs=1, accelerator="cpu"),
}
HOLDING = """
import sys, time
from pathlib import Path
from linguarec.files import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def shop(make_dataset: Any) -> PreparedDataset:
    """A prepared folder with vectors."""
    texts = [f"thing {number}" for number in range(12)]
    generator = np.random.default_rng(0)
    sequences = [generator.permutation(12)[:6].tolist() for _ in range(30)]
    made: PreparedDataset = make_dataset(
        sequences, texts, features={"words": generator.normal(size=(12, 4))}, name="shop"
    )
    return made


def trained_run(shop: PreparedDataset, run: Path, seed: int = 0) -> Recommender:
    finetune("sasrec", shop.path, run, seed=seed, **SMALL_TRAINING)
    return Recommender.load(run)


@pytest.fixture
def holder() -> Iterator[Callable[[Path], "subprocess.Popen[str]"]]:
    """Start a process that holds the lock of an output."""
    started: list[subprocess.Popen[str]] = []

    def hold(path: Path) -> "subprocess.Popen[str]":
        process = subprocess.Popen([sys.executable, "-c", HOLDING, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()


def test_the_second_writer_is_refused_with_the_process_id_of_the_first(
    holder: Callable[[Path], "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    first = holder(output)
    told = rf"out is being written by another process \(process id {first.pid}\); wait for its end"
    for writing in (writing_folder, updating_folder, owned):
        with pytest.raises(OutputError, match=told), writing(output):
            raise AssertionError("it was not refused")
    with writing_folder(tmp_path / "other"):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / ".out.lock").exists()  # the kernel has released it
    with writing_folder(output) as folder:
        (folder / "a").write_text("written")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other", "out"]


def test_a_training_has_one_writer(
    holder: Callable[[Path], "subprocess.Popen[str]"], shop: PreparedDataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = holder(run)
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match=f"process id {first.pid}"):
            finetune("sasrec", shop.path, run, **SMALL_TRAINING, **flags)
    assert not run.exists()


def test_a_thread_may_take_its_lock_again_and_another_waits(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "out"):
            order.append("second")

    with locked(tmp_path / "out"), locked(tmp_path / "out"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_and_what_lives_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with writing_file(tmp_path / "a") as temporary:
        own = temporary.name
        dead = tmp_path / own.replace(f".{os.getpid()}.", f".{ended.pid}.")
        # In a container that is started again the process id is the same, the rest of the name is not.
        before = (
            tmp_path
            / f"{own[: own.index('.', 3 + len(str(os.getpid())))]}.{own.split('.')[3]}.0123456789abcdef.partial"
        )
        for left in (dead, before):
            left.write_text("left")
        with writing_file(tmp_path / "a") as other:
            other.write_text("a")
        assert not dead.exists() and not before.exists()
        assert temporary.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_files_have_the_usual_mode(shop: PreparedDataset, tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        trained_run(shop, tmp_path / "run")
        with writing_folder(tmp_path / "folder") as folder:
            (folder / "a").touch()
    finally:
        os.umask(mask)
    for file in [*(tmp_path / "run").rglob("*"), *(tmp_path / "folder").rglob("*")]:
        assert stat.S_IMODE(file.stat().st_mode) == (0o750 if file.is_dir() else 0o640), file


def test_saving_from_several_threads(shop: PreparedDataset, tmp_path: Path) -> None:
    recommender = trained_run(shop, tmp_path / "run")
    problems: list[BaseException] = []

    def save() -> None:
        try:
            for _ in range(3):
                recommender.save(tmp_path / "copy")
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    history = [shop.raw_item_ids[:3]]
    assert Recommender.load(tmp_path / "copy").recommend(history) == recommender.recommend(history)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy", "run", "shop"]


# -- seals


def test_a_mixture_of_two_runs_is_refused(shop: PreparedDataset, tmp_path: Path) -> None:
    first, second, mixed = (tmp_path / name for name in ("first", "second", "mixed"))
    trained_run(shop, first)
    trained_run(shop, second, seed=1)
    sealed = json.loads((first / SEAL_FILE).read_text())["files"]
    assert {"config.json", "model.safetensors", "catalogue.parquet", "keys.npy", "inputs.npy"} <= sealed.keys()
    for name in sealed:
        if (second / name).read_bytes() == (first / name).read_bytes():
            continue
        shutil.copytree(first, mixed)
        shutil.copy(second / name, mixed / name)
        with pytest.raises(
            CheckpointMismatchError, match=f"{mixed / name} is not the file that was written with the others"
        ):
            Recommender.load(mixed)
        with pytest.raises(CheckpointMismatchError, match="do not belong together"):
            finetune("sasrec", shop.path, tmp_path / "new", from_=mixed)
        shutil.rmtree(mixed)
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(first, moved)
    Recommender.load(moved)


def test_a_mixture_of_two_shops_is_refused(shop: PreparedDataset, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(shop.path, mixed)
    seal(mixed, lambda name: not name.startswith("features"))
    np.save(mixed / "sequences" / "items.npy", np.roll(np.load(mixed / "sequences" / "items.npy"), 1))
    with pytest.raises(DataFormatError, match=r"sequences/items\.npy is not the file that was written with the others"):
        PreparedDataset.open(mixed)


def test_vectors_of_another_encoding_are_refused(shop: PreparedDataset) -> None:
    vectors = np.array(shop.features("words"))
    shop.write_features("words", vectors, shop.feature_info("words"))
    np.save(shop.feature_path("words"), vectors[::-1])
    with pytest.raises(StaleFeaturesError, match=r"words\.npy is not the file that words\.json describes"):
        shop.features("words")


def test_a_digest_sees_size_and_content(tmp_path: Path) -> None:
    file = tmp_path / "a"
    seen = set()
    for content in (
        b"",
        b"a",
        b"b",
        bytes(WHOLE_UP_TO),
        bytes(WHOLE_UP_TO + 1),
        bytes(WHOLE_UP_TO) + b"a",
        bytes(WHOLE_UP_TO * 2),
    ):
        file.write_bytes(content)
        seen.add(digest_of(file))
    assert len(seen) == 7


def test_a_seal_that_is_none(tmp_path: Path) -> None:
    for content, told in (
        ('{"files": 3}', "is not a seal of linguarec"),
        ('{"files": {"../a": "0"}}', "lies outside the folder"),
        ('{"files": {"a": "0"}}', "is missing, but files.json names it"),
    ):
        (tmp_path / SEAL_FILE).write_text(content)
        with pytest.raises(DataFormatError, match=told):
            check_seal(tmp_path, DataFormatError, "Copy it again.")
