"""Every writing command, killed at each of its file operations: its output is then the old one or the new one, never between.

Afterwards the same command completes, with the same result, and nothing of the killed processes is left.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from killing import Killer

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import LinguarecError
from linguarec.recommender import Recommender

TRAINED = ["--training.max-epochs", "1", "--training.accelerator", "cpu", "--transformer.hidden-size", "8"]
TRAINED += ["--transformer.inner-size", "8", "--transformer.heads", "1", "--transformer.layers", "1"]
# Of a run: times, and what tells of them.
PASSING = ("metrics.json", "metrics.csv", "plots/", "logs/", "comparison.json", "report.html", "evaluation/")


@dataclass(frozen=True)
class Case:
    """A command that writes `output`. `again`: the words that complete it after a kill. `every`: which operations are tried."""

    name: str
    words: list[str]
    output: str
    again: list[str] | None = None
    every: int = 1


PREPARE = ["prepare", "table", "--items", "ITEMS", "--interactions"]
CODES = ["quantize", "data", "--features", "vectors", "--subvectors", "4", "--centroids", "4"]
TOKENS = ["tokenize", "data", "--backbone", "all-MiniLM-L6-v2", "--attributes", "title"]
CASES = [
    Case("prepare", [*PREPARE, "LOG", "-o", "new"], "new", every=2),
    Case("prepare over", [*PREPARE, "LOG2", "-o", "data", "--overwrite", "--discard"], "data", every=4),
    Case("encode", ["encode", "data", "--word-drop-draws", "1"], "data", every=3),
    Case("encode over", ["encode", "data", "--max-tokens", "5", "--overwrite", "--name", "vectors"], "data", every=3),
    Case("quantize", [*CODES, "--method", "pq", "--name", "vectors.opq4x4", "--overwrite"], "data"),
    Case("tokenize", [*TOKENS, "--attribute-tokens", "7", "--overwrite"], "data", every=2),
    Case("finetune", ["finetune", "sasrec", "data", "-o", "run", *TRAINED], "run", ["--resume"], every=7),
    Case(
        "finetune over",
        ["finetune", "sasrec", "data", "-o", "old", "--seed", "1", "--overwrite", *TRAINED],
        "old",
        every=7,
    ),
    Case("export", ["export", "data", "-o", "files"], "files", every=3),
    Case("evaluate", ["evaluate", "old", "data"], "old", every=4),
    Case(
        "compare",
        ["compare", "data", "--models", "sasrec", "--seeds", "1", "-o", "report", *TRAINED],
        "report",
        [],
        every=16,
    ),
]


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with Killer() as started:
        yield started


@pytest.fixture(scope="module")
def world(killer: Killer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, another one, a prepared folder with vectors, codes and tokens, and a run."""
    root = tmp_path_factory.mktemp("world") / "world"
    root.mkdir()
    generator = np.random.default_rng(0)
    for name, users in (("LOG", 30), ("LOG2", 25)):
        rows = [
            f"u{user},i{item},{time}"
            for user in range(users)
            for time, item in enumerate(generator.permutation(12)[:7])
        ]
        (root / name).write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    titles = [f"i{item},{'red' if item % 2 else 'blue'} thing number {item}" for item in range(12)]
    (root / "ITEMS").write_text("item_id,title\n" + "\n".join(titles) + "\n")
    for words in (
        ["prepare", "table", "--interactions", "LOG", "--items", "ITEMS", "-o", "data"],
        ["encode", "data", "--name", "vectors"],
        CODES,
        TOKENS,
        ["finetune", "sasrec", "data", "-o", "old", *TRAINED],
    ):
        done = killer.run(root, placed(root, words))
        assert done["code"] == 0, done["said"]
    return root


def placed(root: Path, words: list[str]) -> list[str]:
    """The words with the paths of a copy of the world."""
    names = ("LOG", "LOG2", "ITEMS", "data", "new", "run", "old", "files", "report")
    return [str(root / word) if word in names else word for word in words]


def content(folder: Path) -> dict[str, str]:
    """The digest of each file that a user sees, without those that tell of times."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if file.is_file() and not hidden and not any(part in name for part in PASSING):
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


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


def hidden(root: Path) -> list[str]:
    return [str(file.relative_to(root)) for file in root.rglob(".*")]


def chosen(operations: list[str], every: int) -> list[int]:
    """Which operations are tried: every n-th, those around each exchange, and all if LINGUAREC_TRUST is above 1."""
    whole = int(os.environ.get("LINGUAREC_TRUST", "1")) > 1
    exchanges = [number for number, operation in enumerate(operations) if operation.startswith("exchange")]
    near = {number + step for number in exchanges for step in (0, 1)}
    return [number for number in range(len(operations)) if whole or number % every == 0 or number in near]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_at_each_operation(case: Case, killer: Killer, world: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    shutil.copytree(world, root)
    words = placed(root, case.words)
    before = content(root / case.output)
    done = killer.run(root, words)
    assert done["code"] == 0, done["said"]
    after = content(root / case.output)
    assert after != before or case.name == "evaluate"
    assert hidden(root) == []
    points = chosen(done["operations"], case.every)
    assert len(points) >= 3
    resumes = case.again is not None
    for number in points:
        shutil.rmtree(root)
        shutil.copytree(world, root)
        killed = killer.run(root, words, kill_at=number)
        assert killed["code"] == -9
        where = f"killed before {number}: {done['operations'][number]}"
        now = content(root / case.output)
        if not resumes:
            assert now in (before, after), where
        opens(root / case.output)
        again = killer.run(root, words + (case.again or []))
        complete = now == after and "already" in again["said"]
        assert again["code"] == 0 or complete, f"{where}\n{again['said']}"
        assert content(root / case.output) == after, where
        assert hidden(root) == [], where


def test_sigterm_leaves_nothing_and_says_so(killer: Killer, world: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    shutil.copytree(world, root)
    words = placed(root, CASES[1].words)
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
    words = placed(root, CASES[7].words)
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
