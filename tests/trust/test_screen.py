"""Foreign text on the screen: ids, titles and names that would move the cursor, clear the screen or turn the line around."""

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from linguarec import cli
from linguarec.catalogue import Catalogue
from linguarec.commands.finetune import finetune
from linguarec.commands.prepare import prepare_table
from linguarec.nn.encoders import TransformerConfig
from linguarec.progress import progress_bar
from linguarec.runs.tables import plain_console, show_figures
from linguarec.screen import VisibleFormatter, visible, visible_lines
from linguarec.training.settings import TrainingSettings

NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\u2066.\u200fexe\u2028x\x7f"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\u2066.\u200fexe\u2028x\x7f"
HARMFUL = set("\x1b\x07\x9b\x7f\u202e\u2066\u200f\u2028\r")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose items have such titles, beside its prepared folder `shop`."""
    folder = tmp_path_factory.mktemp("nasty")
    log = [
        {"user_id": f"u{user}", "item_id": f"i{(user + place) % 6}{NASTY}", "timestamp": place}
        for user in range(8)
        for place in range(5)
    ]
    items = [{"item_id": f"i{row}{NASTY}", f"title{NASTY}": f"title {row} {NASTY}\nnext line"} for row in range(6)]
    prepare_table(log, folder / "shop", items, attributes=[f"title{NASTY}"], k_core=0)
    small = TransformerConfig(hidden_size=8, inner_size=8, layers=1, max_length=5)
    finetune("sasrec", folder / "shop", folder / "run", transformer=small, training=TrainingSettings(max_epochs=1))
    return folder / "run"


def called(words: list[object], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    shown = capfd.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err


def test_visible() -> None:
    assert visible(NASTY + "\n\t") == SHOWN + r"\n\t"
    assert visible_lines(f"a\n\tb{NASTY}") == f"a\n\tb{SHOWN}"
    assert visible("\ud800\u061c\r\x00") == r"\ud800\u061c\r\x00"
    assert visible("Ünïcödé 漢字 עברית 🎉 e\u0301") == "Ünïcödé 漢字 עברית 🎉 e\u0301"


def test_recommending(run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    code, out, err = called(["recommend", run, "--history", f"i0{NASTY}"], capfd)
    assert code == 0, err
    assert not HARMFUL & {*out, *err}
    assert f"i0{SHOWN}" in out
    code, out, err = called(["recommend", run, "--history", f"i0{NASTY},j{NASTY}", "--skip-unknown"], capfd)
    assert code == 0, err
    assert f"left out, not in the catalogue: j{SHOWN}" in out
    assert not HARMFUL & {*out, *err}


def test_json_keeps_the_data(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(["recommend", run, "--history", f"i0{NASTY}", "--json"], capfd)
    assert code == 0, err
    result: dict[str, Any] = json.loads(out.split("\n")[-2])
    assert result["history"] == [f"i0{NASTY}"]


def test_describing(run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    code, out, err = called(["describe", run.parent / "shop"], capfd)
    assert code == 0, err
    assert not HARMFUL & {*out, *err}
    assert f"items with title{SHOWN}" in out


def test_comparing(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    named = tmp_path / f"data\x1b[2J\u202e{run.parent.name}"
    named.symlink_to(run.parent / "shop")
    words = [
        "compare",
        named,
        "--models",
        "sasrec",
        "--seeds",
        "1",
        "-o",
        tmp_path / "report",
        "--transformer.hidden-size",
        8,
    ]
    code, out, err = called([*words, "--transformer.layers", 1, "--training.max-epochs", 1], capfd)
    assert code == 0, err
    assert not HARMFUL & {*out, *err}


def test_errors(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["recommend", run, "--history", f"k{NASTY}"],
        ["recommend", tmp_path / NASTY, "--history", "a"],
        ["describe", tmp_path / NASTY],
        [f"x{NASTY}"],
        ["recommend", run, f"--{NASTY}"],
        ["recommend", run, "--history", "a", "-k", NASTY],
    ):
        code, out, err = called(words, capfd)
        assert code == 2
        assert not HARMFUL & {*out, *err}, words
        assert err.startswith("error: ")


def test_logs_and_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(VisibleFormatter("%(message)s"))
    record = logging.LogRecord("linguarec", logging.INFO, "file", 1, "read %s\nand more", (NASTY,), None)
    handler.emit(record)
    assert stream.getvalue() == f"read {SHOWN}\nand more\n"
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar(f"Reading {NASTY}", 1, "rows") as advance:
        advance()
    assert "\u202e" not in capsys.readouterr().err


def test_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    show_figures(f"title {NASTY}", [["what", NASTY]])
    plain_console().print(f"path {NASTY}\nsecond line")
    out = capsys.readouterr().out
    assert not HARMFUL & set(out)
    assert out.count(SHOWN) == 3
    assert f"path {SHOWN}\nsecond line\n" in out


def test_the_catalogue_keeps_what_it_was_told(run: Path) -> None:
    assert Catalogue.load(run / "catalogue.parquet").raw_id(0).endswith(NASTY)
