"""Every writing command, killed at each of its file operations: its output is then the old one or the new one, never between.

Afterwards the same command completes, with the same result, and nothing of the killed processes is left.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_commands import COMMANDS, WORLD, Killed, content, placed, write_logs
from killing import Killer

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import LinguarecError
from linguarec.recommender import Recommender

WHOLE = int(os.environ.get("LINGUAREC_TRUST", "1")) > 1


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with Killer() as started:
        yield started


@pytest.fixture(scope="module")
def world(killer: Killer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of `killed_commands`."""
    root = tmp_path_factory.mktemp("world") / "world"
    root.mkdir()
    write_logs(root)
    for words in WORLD:
        done = killer.run(root, placed(root, words))
        assert done["code"] == 0, done["said"]
    return root


def opens(folder: Path) -> None:
    """A prepared folder or a run opens, or a library error says why it does not."""
    if (folder / "manifest.json").exists():
        dataset = PreparedDataset.open(folder)
        for name in dataset.feature_names:
            dataset.features(name)
            dataset.word_drop_draws(name)
    elif (folder / "settings.json").exists():
        try:
            Recommender.load(folder)
        except LinguarecError:
            assert not (folder / "metrics.json").exists()


def words_of(name: str) -> list[str]:
    return next(command.words for command in COMMANDS if command.name == name)


def hidden(root: Path) -> list[str]:
    return [str(file.relative_to(root)) for file in root.rglob(".*")]


def chosen(operations: list[str], every: int) -> list[int]:
    """Which operations are tried: every n-th, those around each exchange, and all if LINGUAREC_TRUST is above 1."""
    exchanges = [number for number, operation in enumerate(operations) if operation.startswith("exchange")]
    near = {number + step for number in exchanges for step in (0, 1)}
    return [number for number in range(len(operations)) if WHOLE or number % every == 0 or number in near]


@pytest.mark.parametrize(
    "command", [each for each in COMMANDS if WHOLE or not each.large], ids=lambda command: command.name
)
def test_killed_at_each_operation(command: Killed, killer: Killer, world: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    shutil.copytree(world, root)
    words, output = placed(root, command.words), root / command.output
    before = command.result(output)
    done = killer.run(root, words)
    assert done["code"] == 0, done["said"]
    after = command.result(output)
    assert (after == before) is command.same
    assert hidden(root) == []
    points = chosen(done["operations"], command.every)
    assert len(points) >= 3
    for number in points:
        shutil.rmtree(root)
        shutil.copytree(world, root)
        killed = killer.run(root, words, kill_at=number)
        assert killed["code"] == -9
        where = f"killed before {number}: {done['operations'][number]}"
        now = command.result(output)
        if command.again is None:
            assert now in (before, after), where
        opens(output)
        again = killer.run(root, words + (command.again or []))
        complete = now == after and "already" in again["said"]
        assert again["code"] == 0 or complete, f"{where}\n{again['said']}"
        assert command.result(output) == after, where
        assert hidden(root) == [], where


def test_sigterm_leaves_nothing_and_says_so(killer: Killer, world: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    shutil.copytree(world, root)
    words = placed(root, words_of("prepare over"))
    before = content(root / "data")
    done = killer.run(root, words)
    shutil.rmtree(root)
    shutil.copytree(world, root)
    stopped = killer.run(root, words, kill_at=len(done["operations"]) // 2, stop="TERM")
    assert stopped["code"] == 143
    assert "ended by SIGTERM" in stopped["said"]
    assert content(root / "data") == before
    assert hidden(root) == []


def test_the_old_run_stays_and_a_killed_replacement_goes_on(killer: Killer, world: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    shutil.copytree(world, root)
    words = placed(root, words_of("finetune over"))
    before = content(root / "old")
    operations = killer.run(root, words)["operations"]
    after = content(root / "old")
    number = next(n for n, operation in enumerate(operations) if "metrics.json" in operation)
    shutil.rmtree(root)
    shutil.copytree(world, root)
    assert killer.run(root, words, kill_at=number)["code"] == -9
    assert content(root / "old") == before
    assert (root / ".old.training" / "checkpoints" / "last.ckpt").exists()
    assert killer.run(root, [*words, "--resume"])["code"] == 0
    assert content(root / "old") == after
    assert hidden(root) == []


def test_where_folders_cannot_be_exchanged_the_old_one_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from linguarec import files

    def no_exchange(first: Path, second: Path) -> bool:
        return False

    monkeypatch.setattr(files, "exchange", no_exchange)
    folder = tmp_path / "data"
    with files.writing_folder(folder) as new:
        (new / "a").write_text("old")
    with files.writing_folder(folder, overwrite=True) as new:
        (new / "a").write_text("new")
    assert content(folder) == {"a": hashlib.sha256(b"new").hexdigest()}
    folder.rename(tmp_path / ".data.old")  # as a process leaves it that is killed between the two renames
    assert ".data.old" in files.absence(folder)
    with pytest.raises(LinguarecError, match=r"a process that was killed .* left it as .*\.data\.old"):
        PreparedDataset.open(folder)
    with files.owned(folder):
        pass
    assert content(folder) == {"a": hashlib.sha256(b"new").hexdigest()}
    assert "put back" in caplog.text
