"""The commands of the campaign of kills (`test_killed.py`), and the small world that they write in.

To add a command, add a line to `COMMANDS`: `Killed(NAME, WORDS, OUTPUT)`. What it reads beside the paths below is made by a
line of `WORLD`. Words that are one of `PATHS`, or the output of a command, are those of the test's copy of the world.
`LINGUAREC_TRUST=10` tries all of a command's file operations, and the commands with `large=True`.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Content = dict[str, str]
TRAINED = ["--training.max-epochs", "1", "--training.accelerator", "cpu", "--transformer.hidden-size", "8"]
TRAINED += ["--transformer.inner-size", "8", "--transformer.heads", "1", "--transformer.layers", "1"]
# Of a run: times, and what tells of them.
PASSING = ("metrics.json", "metrics.csv", "plots/", "logs/", "comparison.json", "report.html", "evaluation/")


def content(path: Path) -> Content:
    """The digest of a file, or of each file of a folder that a user sees, without those that tell of times."""
    if path.is_file():
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    found = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if file.is_file() and not hidden and not any(part in name for part in PASSING):
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def content_of_study(folder: Path) -> Content:
    """Of a folder of `tune`: the best run, its settings, and what was tried. A killed trial counts, so numbers differ."""
    if not (folder / "tuning.json").exists():
        return {}
    found = content(folder / "best") | content(folder / "best.yaml")
    stored = json.loads((folder / "tuning.json").read_text(encoding="utf-8"))
    tried = [[trial["state"], trial["value"], trial["settings"]] for trial in stored["trials"]]
    report = (folder / "report.html").read_text(encoding="utf-8")
    runs = sorted(file.parent.name for file in folder.glob("trial-*/*.safetensors"))
    return found | {"trials": json.dumps([tried, stored["valid"], stored["running"], runs]), "report": report[-20:]}


@dataclass(frozen=True)
class Killed:
    """A command that is killed.

    Args:
        name: of the test.
        words: the command line.
        output: what it writes.
        again: words that complete it after a kill, for a command that goes on with what is there; None = it begins anew, and
            its output is the old or the new one at each moment.
        every: every n-th file operation is tried, and those around an exchange of folders.
        result: what must be the same after a kill and another try.
        same: its output does not differ from what was there, but for times.
        large: only with LINGUAREC_TRUST above 1.
    """

    name: str
    words: list[str]
    output: str
    again: list[str] | None = None
    every: int = 1
    result: Callable[[Path], Content] = content
    same: bool = False
    large: bool = False


PREPARE = ["prepare", "table", "--items", "ITEMS", "--interactions"]
CODES = ["quantize", "data", "--features", "vectors", "--subvectors", "4", "--centroids", "4"]
TOKENS = ["tokenize", "data", "--backbone", "all-MiniLM-L6-v2", "--attributes", "title"]
COMPARE = ["compare", "data", "--models", "sasrec", "--seeds", "1", "--no-baselines", "-o", "report", *TRAINED]
TUNE = ["--trials", "2", "-o", "study"]
PATHS = ("LOG", "LOG2", "DAY", "LATER", "ITEMS", "HISTORIES.csv", "data", "later", "old", "knn", "mix")  # of the world


def write_logs(root: Path) -> None:
    """The raw files of the world."""
    generator = np.random.default_rng(0)
    for name, users in (("LOG", 30), ("LOG2", 25)):
        rows = [
            f"u{user},i{item},{time}"
            for user in range(users)
            for time, item in enumerate(generator.permutation(12)[:7])
        ]
        (root / name).write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    log = (root / "LOG").read_text()
    day = [f"u{user},i{generator.integers(0, 12)},{100 + user}" for user in range(30)]
    (root / "DAY").write_text("user_id,item_id,timestamp\n" + "\n".join(day) + "\n")
    (root / "LATER").write_text(log + "\n".join(day) + "\n")
    titles = [f"i{item},{'red' if item % 2 else 'blue'} thing number {item}" for item in range(12)]
    (root / "ITEMS").write_text("item_id,title\n" + "\n".join(titles) + "\n")
    (root / "HISTORIES.csv").write_text("user,history\n" + "".join(f'u{n},"i{n},i{n + 1}"\n' for n in range(9)))


SASREC = ["finetune", "sasrec", "data", *TRAINED]
WORLD = [  # commands that make it
    [*PREPARE, "LOG", "-o", "data"],
    ["encode", "data", "--name", "vectors"],
    CODES,
    TOKENS,
    [*PREPARE, "LATER", "-o", "later"],
    [*SASREC, "-o", "old"],
    ["finetune", "itemknn", "data", "-o", "knn"],
    ["blend", "old", "knn", "-o", "mix"],
]
COMMANDS = [
    Killed("prepare", [*PREPARE, "LOG", "-o", "new"], "new", every=2),
    Killed("prepare over", [*PREPARE, "LOG2", "-o", "data", "--overwrite", "--discard"], "data", every=4),
    Killed("append", ["prepare", "append", "data", "--interactions", "DAY", "--discard"], "data", every=4),
    Killed("encode", ["encode", "data", "--word-drop-draws", "1"], "data", every=3),
    Killed("encode over", ["encode", "data", "--max-tokens", "5", "--overwrite", "--name", "vectors"], "data", every=3),
    Killed("quantize", [*CODES, "--method", "pq", "--name", "vectors.opq4x4", "--overwrite"], "data"),
    Killed("tokenize", [*TOKENS, "--attribute-tokens", "7", "--overwrite"], "data", every=2),
    Killed("finetune", [*SASREC, "-o", "run"], "run", ["--resume"], every=7),
    Killed("finetune over", [*SASREC, "-o", "old", "--seed", "1", "--overwrite"], "old", every=7),
    Killed("finetune at once", ["finetune", "ease", "data", "-o", "run"], "run", ["--resume"], every=4),
    Killed("update", ["update", "knn", "later", "-o", "new", "--accept-worse"], "new", ["--resume"], every=12),
    Killed("blend", ["blend", "old", "knn", "-o", "new"], "new", every=8),
    Killed("blend over", ["blend", "knn", "old", "-o", "mix", "--overwrite"], "mix", every=8),
    Killed("tune", ["tune", "itemknn", "data", *TUNE], "study", [], every=40, result=content_of_study),
    Killed("tune by steps", ["tune", "sasrec", "data", *TUNE, *TRAINED], "study", [], 3, content_of_study, large=True),
    Killed("export", ["export", "data", "-o", "files"], "files", every=3),
    Killed("export onnx", ["export", "old", "--form", "onnx", "-o", "files"], "files", every=10),
    Killed("evaluate", ["evaluate", "old", "data"], "old", every=4, same=True),
    Killed("recommend", ["recommend", "mix", "--histories", "HISTORIES.csv", "-o", "best.parquet"], "best.parquet"),
    Killed("compare", [*COMPARE, "--runs", "knn", "--blend"], "report", [], every=16),
]


def placed(root: Path, words: list[str]) -> list[str]:
    """The words with the paths of a copy of the world."""
    paths = {*PATHS, *(command.output for command in COMMANDS)}
    return [str(root / word) if word in paths else word for word in words]
