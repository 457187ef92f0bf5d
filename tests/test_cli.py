"""The program as a whole: the table of commands, exit codes, what goes to stdout and to stderr, speed of the help."""

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import docstring_parser
import pytest

from linguarec import cli
from linguarec.cli import COMMANDS, Command
from linguarec.errors import DataFormatError


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Put a function of this module into the table as `linguarec fake PATH`."""

    def put(function: Callable[..., Any]) -> None:
        monkeypatch.setattr(commands, "fake", function, raising=False)
        monkeypatch.setitem(COMMANDS, "fake", Command("linguarec.commands", "fake", "Only in tests.", ("path",)))

    commands = importlib.import_module("linguarec.commands")
    return put


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_documented_function(name: str):
    command = COMMANDS[name]
    function = getattr(importlib.import_module(command.module), command.function)
    parameters = inspect.signature(function).parameters
    documented = {p.arg_name: p.description for p in docstring_parser.parse(inspect.getdoc(function)).params}
    assert set(command.positional) <= set(parameters)
    assert set(documented) == set(parameters)
    assert all(documented.values())
    # `**options` stands for the flags that families declare; nothing else is passed through unnamed.
    unnamed = [p.name for p in parameters.values() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert unnamed == ([] if command.options is None else ["options"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("tune", "--help"), 0, "usage: linguarec tune"),
        (
            ("tune", "ease", "data", "-o", "tuned"),
            2,
            "error: tune needs optuna, not installed here: pip install 'linguarec[tune]'",
        ),
        (("serve", "--help"), 0, "usage: linguarec serve"),
        (
            ("serve", "run"),
            2,
            "error: serving needs packages that are not installed, as fastapi: pip install 'linguarec[serve]'",
        ),
        (("export", "--help"), 0, "usage: linguarec export"),
    ],
)
def test_an_extra_that_is_not_installed_is_named(words: tuple[str, ...], code: int, message: str, tmp_path: Path):
    """In processes of their own, as modules that need the extras may be imported here already."""
    hidden = "import sys; sys.modules |= dict.fromkeys(['optuna', 'fastapi', 'onnx'])"
    program = f"{hidden}; from linguarec import cli; cli.main({list(words)})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (code, [])
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_shows_its_help(name: str, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, *name.split(), "--help")
    assert code == 0
    assert out.startswith(f"usage: linguarec {name}")
    assert "--json" in out
    assert err == ""


READING = """
import logging, os, sys
from linguarec import cli

class Stop(logging.Handler):
    def emit(self, record):
        slow = sorted({"lightning", "transformers"} & sys.modules.keys())
        print(record.name, record.getMessage(), slow)
        sys.stdout.flush()
        os._exit(0)

logging.basicConfig(level=logging.INFO, handlers=[Stop()])
cli.main(["finetune", "sasrec", sys.argv[1], "-o", "run"])
"""


def test_a_training_says_what_it_reads_before_it_imports_its_libraries(make_dataset: Any, tmp_path: Path):
    data = make_dataset([[0, 1, 2, 3]] * 20).path
    command = [sys.executable, "-c", READING, str(data)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    said = f"reads {data} (20 users, 4 items, 80 interactions)"
    assert done.stdout == f"linguarec.data.training_data {said} []\n"


OVERVIEW = """
import sys
from pathlib import Path

def installed():
    found = {name.partition(".")[0]: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    return {name for name, file in found.items() if file and "site-packages" in Path(file).parts}

before = installed()  # what the interpreter itself loads at its start
import linguarec.cli

try:
    linguarec.cli.main(["--help"])
finally:
    commands = sorted(name for name in sys.modules if name.startswith("linguarec.commands."))
    print("libraries:", *sorted(installed() - before), "commands:", *commands, file=sys.stderr)
"""


def test_the_overview_imports_no_library_and_no_command():
    """So that it answers at once: PyTorch alone takes seconds."""
    done = subprocess.run([sys.executable, "-c", OVERVIEW], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("usage: linguarec COMMAND")
    assert done.stderr == "libraries: commands:\n"


def test_overview_and_version(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert listed == list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    assert run(capsys, "--version") == (0, f"linguarec {version('linguarec')}\n", "")
    assert run(capsys)[0] == 2
    code, out, _ = run(capsys, "prepare", "--help")
    assert code == 0
    assert "online-retail" in out
    assert run(capsys, "prepare")[0] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["descrbe", "X"], "error: unknown command 'descrbe'; did you mean `linguarec describe`?\n"),
        (["prepare", "tabel"], "error: unknown command 'prepare tabel'; did you mean `linguarec prepare table`?\n"),
        (["--verison"], "error: unknown option '--verison'; did you mean `linguarec --version`?\n"),
        (["zzzzzz"], "error: unknown command 'zzzzzz'; `linguarec --help` lists the commands.\n"),
    ],
)
def test_a_typo_in_a_command_suggests_the_near_one(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert run(capsys, *words) == (2, "", message)


def test_a_typo_in_an_option_suggests_the_near_one(capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, "describe", "D", "--jsno")
    assert (code, out) == (2, "")
    assert "unknown option --jsno; did you mean --json?" in err


def test_json_is_the_last_line_of_stdout(fake: Callable[[Any], None], capsys: pytest.CaptureFixture[str]):
    def command(path: Path, k: int = 1) -> dict[str, Any]:
        """Show and return.

        Args:
            path: where.
            k: how many.
        """
        sys.stdout.write("a table\n")
        return {"path": str(path), "k": k, "café": 0.5}

    fake(command)
    code, out, err = run(capsys, "fake", "P", "-k", "3", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out.splitlines()[-1]) == {"path": "P", "k": 3, "café": 0.5}
    assert run(capsys, "fake", "P") == (0, "a table\n", "")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_input_errors_are_one_message_and_exit_code_2(
    flags: list[str], fake: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
):
    def command(path: Path) -> dict[str, Any]:
        """Fail.

        Args:
            path: where.
        """
        raise DataFormatError(f"{path}: row 3 has no item.")

    fake(command)
    assert run(capsys, "fake", "P", *flags) == (2, "", "error: P: row 3 has no item.\n")


def test_a_later_process_waits_before_it_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    waited: list[str] = []
    monkeypatch.setattr(
        cli.time, "sleep", lambda seconds: waited.append(f"{seconds} s, said: {capsys.readouterr().err}")
    )
    expected = (2, "", "error: unknown command 'zzzzzz'; `linguarec --help` lists the commands.\n")
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert run(capsys, "zzzzzz") == expected
    assert waited == ["10.0 s, said: "]  # the second one, once


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--training.devices=2", "--training.patience=0"], "training.patience is 0; it must be at least 1"),
        (["--training.devices=2"], "is not a prepared dataset folder: it has no manifest.json"),
    ],
)
def test_torchrun_shows_a_bad_setting_once(flags: list[str], message: str, tmp_path: Path):
    """Its own exit code is 1 whatever its processes end with; it shows theirs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "linguarec.cli", "finetune", "sasrec", str(tmp_path), "-o", str(tmp_path / "run"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1
    assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) == done.stderr.count(message) == 1
    assert re.search(r"Root Cause .*\n\[0\]:\n.*\n.*\n.*rank +: 0 .*\n +exitcode +: 2 ", done.stderr)
    assert "linguarec/cli.py" not in done.stderr  # no traceback of ours
    assert not (tmp_path / "run").exists()


def test_a_missing_file_is_an_input_error(
    fake: Callable[[Any], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def command(path: Path) -> dict[str, Any]:
        """Read.

        Args:
            path: where.
        """
        return {"text": path.read_text()}

    fake(command)
    missing = tmp_path / "none.csv"
    assert run(capsys, "fake", str(missing)) == (2, "", f"error: {missing} does not exist; check the path.\n")


def test_a_fault_of_the_library_keeps_its_traceback(fake: Callable[[Any], None]):
    def command(path: Path) -> dict[str, Any]:
        """Break.

        Args:
            path: where.
        """
        raise RuntimeError("a bug")

    fake(command)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["fake", "P"])


@pytest.mark.parametrize("as_lightning_does", [False, True])
def test_an_interrupt_exits_with_130(
    as_lightning_does: bool,
    fake: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def command(path: Path) -> dict[str, Any]:
        """Stop.

        Args:
            path: where.
        """
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if as_lightning_does:
                sys.exit(1)
            raise

    fake(command)
    code, out, err = run(capsys, "fake", "P")
    assert (code, out) == (130, "")
    assert err.strip().startswith("interrupted")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run(capsys, "fake", "P") == (130, "", "")  # the first process says it


def test_a_training_ended_by_sigterm_does_not_look_finished(
    fake: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
):
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    def command(path: Path) -> dict[str, Any]:
        """Stop.

        Args:
            path: where.
        """
        raise SIGTERMException

    fake(command)
    code, out, err = run(capsys, "fake", "P")
    assert (code, out) == (143, "")
    assert err == "\nended by SIGTERM; no half-written file is left behind.\n"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("finetune", "; repeat it with --resume to go on"),
        ("pretrain", "; repeat it with --resume to go on"),
        ("update", "; repeat it with --resume to go on"),
        ("encode", "; repeat the same command to go on"),
        ("compare", "; repeat the same command to go on"),
        ("transfer", "; repeat the same command to go on"),
        ("tune", "; repeat the same command to go on"),
        ("tokenize", ""),
        ("evaluate", ""),
        ("serve", ""),
        ("prepare table", ""),
    ],
)
def test_an_interrupt_says_how_the_command_goes_on(
    name: str, advice: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*of: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse", interrupted)
    code, _, err = run(capsys, *name.split())
    assert (code, err) == (130, f"\ninterrupted; no half-written file is left behind{advice}.\n")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("compare D", "unknown option --resume; repeat the command without it to go on."),
        ("describe D", "unknown option --resume."),
    ],
)
def test_a_command_without_resume_says_what_goes_on_instead(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
):
    code, _, err = run(capsys, *command.split(), "--resume")
    assert (code, err.splitlines()[0]) == (2, f"error: {message}")


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("sasrec", ["--transformer.heads", "7"], "hidden_size 300 is not divisible by heads 7"),
        ("sasrec", ["--transformer.heads", "0"], "heads is 0; it must be at least 1"),
        ("sasrec", ["--sequence-encoder", "gru", "--gru.layers", "0"], "layers is 0; it must be at least 1"),
        ("sasrec", ["--transformer.dropout", "1.0"], "dropout is 1.0; it must be 0 or more and below 1"),
        ("unisrec", ["--model.experts", "0"], "experts is 0; it must be at least 1"),
        ("vqrec", ["--model.temperature", "0"], "temperature is 0.0; it must be above 0"),
        ("recformer", ["--model.heads", "0"], "heads is 0; it must be at least 1"),
        ("recformer", ["--model.max_tokens", "1"], "max_tokens is 1; it must be at least 2"),
        ("recformer", ["--model.max_tokens", "5000"], "max_tokens is 5000, but .* has room for 4096 tokens"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    model: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    code, _, errors = run(capsys, "finetune", model, str(tmp_path), "-o", str(tmp_path / "run"), *flags)
    assert code == 2
    assert re.search(message, " ".join(errors.split()))
    assert not (tmp_path / "run").exists()
