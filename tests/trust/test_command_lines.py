"""Command lines as they are mistyped: each ends with exit code 0, 1 or 2, and with a sentence where it is not 0.

`LINGUAREC_TRUST=10` tries ten times as many as the quick test.
"""

import csv
import io
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile import TookTooLongError, within

from linguarec import cli
from linguarec.catalogue import Catalogue
from linguarec.comma_lists import split_by_commas
from linguarec.config_files import read_config
from linguarec.errors import SettingsError
from linguarec.recommender import Recommender
from linguarec.seals import unseal

SIZE = int(os.environ.get("LINGUAREC_TRUST", "1"))
SECONDS = 30  # that a command may take
log = logging.getLogger(__name__)
HUGE = str(1 << 65)
VALUES = [
    "", " ", "0", "-1", HUGE, f"-{HUGE}", "1e400", "nan", "inf", "-inf", "text", "ünï 漢字", "\ud800", "\x1b[2J", "a\nb",
    "null", "true", "[1]", "[", "{a: 1}", "{", ",", '"', "x" * 5000, "&a [*a]", "!!python/object:os.system", "0x10",
    "1_000", "-", "~", "0.5", "*", "a=b", "FOLDER", "FILE", "FULL", "DEVICE", "no/such/path", "\u202e",
]  # fmt: skip
TRAINING = [
    "--training.max-epochs", "1", "--training.targets-per-step", "200", "--training.accelerator", "cpu",
    "--transformer.hidden-size", "8", "--transformer.inner-size", "8", "--transformer.layers", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(shop: Path, runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of the commands, with what they read."""
    folder = tmp_path_factory.mktemp("place")
    rows = [[f"u{user}", f"i{(user + n) % 5}", n] for user in range(6) for n in range(5)]
    with (folder / "log.csv").open("w") as file:
        csv.writer(file).writerows([["user_id", "item_id", "timestamp"], *rows])
    (folder / "other").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "file.txt").write_text("mine")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def commands(shop: Path, runs: dict[str, Path], backbone: str) -> dict[str, list[str]]:
    """A command line of each command that works."""
    item = Recommender.load(runs["unisrec"]).catalogue.raw_id(0)
    data = str(shop)
    return {
        "describe": ["describe", data],
        "recommend": ["recommend", str(runs["unisrec"]), "--history", item],
        "evaluate": ["evaluate", str(runs["vqrec"]), data, "--no-plots"],
        "finetune sasrec": ["finetune", "sasrec", data, "-o", "OUT", *TRAINING],
        "finetune vqrec": ["finetune", "vqrec", data, "-o", "OUT", *TRAINING],
        "pretrain": ["pretrain", "unisrec", data, "-o", "OUT", *TRAINING],
        "quantize": [
            "quantize", data, "--features", "words", "--subvectors", "4", "--centroids", "8", "--name", "q", "--overwrite",
        ],
        "export": ["export", data, "-o", "OUT"],
        "convert": ["convert", str(runs["unisrec"]), "-o", "OUT.pth"],
        "prepare table": ["prepare", "table", "--interactions", "log.csv", "-o", "OUT", "--k-core", "0"],
        "prepare atomic": ["prepare", "atomic", "log.csv", "-o", "OUT"],
        "prepare recformer": ["prepare", "recformer", "other", "-o", "OUT"],
        "prepare amazon-2014": ["prepare", "amazon-2014", "--ratings", "log.csv", "-o", "OUT"],
        "prepare online-retail": ["prepare", "online-retail", "--source", "log.csv", "-o", "OUT"],
        "encode": ["encode", data, "--encoder", backbone, "--name", "e", "--overwrite"],
        "tokenize": ["tokenize", data, "--backbone", backbone, "--name", "t", "--overwrite"],
        "import-codes": ["import-codes", data, "log.csv"],
        "compare": ["compare", data, "--models", "sasrec", "--seeds", "1", "-o", "OUT", *TRAINING],
        "blend": ["blend", str(runs["unisrec"]), str(runs["ease"]), "-o", "OUT"],
        "tune": ["tune", "itemknn", data, "-o", "OUT", "--trials", "1"],
        "export onnx": ["export", str(runs["recformer"]), "--form", "onnx", "-o", "OUT"],  # refused, and so soon done
        "recommend all": ["recommend", str(runs["ease"]), "--for", data, "-o", "OUT.csv", "--filter", 'title != "a"'],
        "serve": ["serve", str(runs["unisrec"]), "--port", "0", "--state", "OUT.sqlite"],
        "transfer": ["transfer", data, "--from", str(runs["unisrec"]), "-o", "OUT", *TRAINING],
    }  # fmt: skip


def flags_of(words: list[str], capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The flags that a command's help names."""
    size = 2 if words[0] in ("prepare", "finetune", "pretrain", "tune") else 1
    called([*words[:size], "--help"], capfd)
    shown = capfd.readouterr().out
    lines = [line.strip() for line in shown.splitlines() if line.startswith("  -")]
    flags = [word.strip(",") for line in lines for word in line.split("  ")[0].split() if word.startswith("-")]
    return [flag for flag in dict.fromkeys(flags) if flag not in ("-h", "--help")]


def mutated(words: list[str], flags: list[str], draw: random.Random) -> list[str]:
    """The command line with a flag of another value, a flag twice, without its value, or with other words."""
    flag, value = draw.choice(flags), draw.choice(VALUES)
    named = {"FOLDER": "other", "FILE": "log.csv", "FULL": "full", "DEVICE": "/dev/null"}
    value = named.get(value, value)
    changed = list(words)
    kind = draw.random()
    if kind < 0.75:
        if flag in changed:
            changed[changed.index(flag) + 1 : changed.index(flag) + 2] = [value]
        else:
            changed += [flag, value] if draw.random() < 0.5 else [f"{flag}={value}"]
    elif kind < 0.82:
        changed += [flag]
    elif kind < 0.88:
        changed += [flag, value, flag, draw.choice(VALUES)]
    elif kind < 0.97:
        changed[draw.randrange(1, len(changed))] = value
    else:
        del changed[draw.randrange(1, len(changed))]
    return changed


def called(words: list[str], capfd: pytest.CaptureFixture[str]) -> int:
    """The exit code of a command in this process; what it shows is in `capfd`."""

    capfd.readouterr()
    try:
        with within(SECONDS):
            cli.main(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0


def test_mutated_command_lines(
    place: Path,
    shop: Path,
    runs: dict[str, Path],
    backbone: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = commands(shop, runs, backbone)
    flags = {name: flags_of(words, capfd) for name, words in lines.items()}
    for each in flags.values():  # thousands are no mistake, and would take long
        each[:] = [flag for flag in each if flag not in ("--training.devices", "--trials")]
    # The service is not what is tried here, and it changes how the whole process logs.
    monkeypatch.setattr("linguarec.serving.server.run", lambda settings, live, listening: live.close())
    monkeypatch.setattr("linguarec.serving.server.run_workers", lambda *arguments: None)
    monkeypatch.setattr("linguarec.serving.logs.log_as_json", lambda: None)
    draw, wrong = random.Random(3), []
    for number in range(360 * SIZE):
        name = list(lines)[number % len(lines)]
        words = [word.replace("OUT", f"out{number}") for word in mutated(lines[name], flags[name], draw)]
        log.info("%s", words)
        try:
            code = called(words, capfd)
        except (Exception, TookTooLongError) as error:  # noqa: BLE001  # any of them is what this test looks for
            wrong.append(f"{words}: {type(error).__name__}: {error}"[:600])
            log.error("%s", wrong[-1])
            continue
        shown = capfd.readouterr()
        if code not in (0, 1, 2) or "Traceback" in shown.err or (code and "error: " not in shown.err):
            wrong.append(f"{words}: exit code {code}, {shown.err[-300:]}")
            log.error("%s", wrong[-1])
    assert wrong == []


@pytest.mark.parametrize(
    "settings",
    [
        ["--seed", HUGE], ["--transformer.layer-norm-eps", "-1"], ["--transformer.layers", "1001"],
        ["--transformer.hidden-size", "1000000"], ["--transformer.layer-norm-eps", "nan"], ["--transformer.dropout", "nan"],
        ["--training.learning-rate", "inf"], ["--training.learning-rate", "nan"], ["--training.max-epochs", HUGE],
        ["--training.gradient-clip", "inf"], ["--users", "nan"], ["--model.initializer-range", "-1"],
    ],
)  # fmt: skip
def test_numbers_out_of_range(settings: list[str], place: Path, shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert called(["finetune", "sasrec", str(shop), "-o", "none", *settings], capfd) == 2
    error = capfd.readouterr().err
    assert settings[0].lstrip("-").split(".")[-1].replace("-", "_") in error.replace("-", "_")
    assert not (place / "none").exists()


CONFIGS = {
    "training: 3\n": "training",
    "training: &a {loggers: [*a]}\n": "anchor",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n": "anchor",
    "seed: 1\nseed: 2\n": "'seed' a second time",
    "training:\n  patience: 1\n  patience: 2\n": "line 3 has the key 'patience' a second time",
    'split: "\\ud800"\n': "is not UTF-8",
    f"training: {'[' * 5000}{']' * 5000}\n": "nested more than 20 levels deep",
    "- seed\n": "expected settings as `name: value`",
    "seed\n": "expected settings as `name: value`",
    "seed: [\n": "is not a YAML file",
    "? [a]\n: b\n": "a key that is not text",
    "!!python/object/apply:os.system ['true']\n": "is not a YAML file",
    "training: {learning_rate: .nan}\n": "learning_rate",
    "seed: 99999999999999999999\n": "seed",
    "split: 3\n": "split",
    "output: [a]\n": "output",
    'data: "a\\0b"\n': "",
    "nothing: 1\n": "nothing",
}


@pytest.mark.parametrize("text", CONFIGS)
def test_settings_files(text: str, place: Path, shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = place / "settings.yaml"
    file.write_text(text)
    assert called(["finetune", "sasrec", str(shop), "-o", "none", "--config", str(file)], capfd) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert CONFIGS[text] in error
    assert not (place / "none").exists()


def test_settings_files_that_are_none(place: Path, shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(place / "pipe.yaml")
    (place / "latin.yaml").write_bytes(b"split: \xe4\n")
    (place / "large.yaml").write_bytes(b"# " + b"x" * (1 << 20))
    for name, message in {
        "pipe.yaml": "is a FIFO", "latin.yaml": "is not UTF-8", "large.yaml": "larger than", "other": "is a folder",
        "none.yaml": "does not exist",
    }.items():  # fmt: skip
        assert called(["finetune", "sasrec", str(shop), "-o", "none", "--config", name], capfd) == 2
        assert message in capfd.readouterr().err


def test_a_good_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("seed: 3\ntraining: {patience: 2, loggers: [wandb]}\nsplit: leave-one-out\n")
    assert read_config(file) == {"seed": 3, "training": {"patience": 2, "loggers": ["wandb"]}, "split": "leave-one-out"}
    file.write_text("")
    assert read_config(file) == {}
    file.write_text("seed: 3\nseed: 3\n")
    with pytest.raises(SettingsError, match=r"line 2 has the key 'seed' a second time"):
        read_config(file)


STRANGE_IDS = [
    " a", "a ", "a,b", 'say "x"', '"', "a\nb", "null", "true", "1e5", "007", "-1", "-x", "--history", "[a]", "{a: 1}", "a=b",
    "é", "'a'", "#a", "&a", "\t", '","', "@file", "a\\b", "None", "~",
]  # fmt: skip


def test_every_id_can_be_named(runs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    recommender = Recommender.load(runs["unisrec"])
    table = recommender.catalogue.table
    names = [*STRANGE_IDS, *table["raw_id"].to_pylist()[len(STRANGE_IDS) :]]
    changed = table.set_column(table.column_names.index("raw_id"), "raw_id", [names])
    recommender.save(run)
    unseal(run)
    Catalogue(changed, recommender.catalogue.text_rules).save(run / "catalogue.parquet")
    row = io.StringIO()
    csv.writer(row, quoting=csv.QUOTE_ALL, lineterminator="").writerow(STRANGE_IDS)
    assert split_by_commas(row.getvalue()) == STRANGE_IDS
    assert called(["recommend", str(run), "--history", row.getvalue(), "--json"], capfd) == 0
    import json

    assert json.loads(capfd.readouterr().out.splitlines()[-1])["history"] == STRANGE_IDS
    for raw_id in STRANGE_IDS:
        quoted = '"' + raw_id.replace('"', '""') + '"'
        assert called(["recommend", str(run), "--history", quoted], capfd) == 0, raw_id


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("", "history"),
        (",", "history"),
        ('"a', "quote that is not closed"),
        ("a\nb", "line break"),
        ("\ud800", "UTF-8"),
    ],
)
def test_histories_that_are_none(
    history: str, message: str, runs: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert called(["recommend", str(runs["unisrec"]), "--history", history], capfd) == 2
    assert message in capfd.readouterr().err


SHELL: list[tuple[str, str]] = [(">/dev/full", "No space left"), (">&-", "standard output is closed")]


@pytest.mark.parametrize(("redirection", "message"), SHELL)
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["describe", "DATA"], ["describe", "DATA", "--json"]])
def test_an_output_that_takes_no_text(words: list[str], redirection: str, message: str, shop: Path) -> None:
    command = [sys.executable, "-m", "linguarec.cli", *(str(shop) if word == "DATA" else word for word in words)]
    script = f'"$@" {redirection}'
    source = str(Path(cli.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_memory_that_is_not_there(place: Path, shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def allocate(*arguments: object, **settings: object) -> Callable[[], None]:
        raise MemoryError("Unable to allocate 3 TiB")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("linguarec.data.dataset.PreparedDataset.open", allocate)
        assert called(["describe", str(shop)], capfd) == 2
    assert "error: there is not enough memory (Unable to allocate 3 TiB)" in capfd.readouterr().err
