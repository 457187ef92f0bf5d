"""A table on the screen: figures are whole whatever the width, texts wrap."""

import io

import pytest
from rich.console import Console

from linguarec.evaluation.report import Table
from linguarec.runs.tables import show_result, show_table

METRICS = ["recall@10", "ndcg@10", "recall@50", "ndcg@50", "mrr"]


def shown(table: Table, width: int) -> str:
    screen = io.StringIO()
    show_table(Console(file=screen, width=width), table, "title")
    return screen.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_figures_and_their_names_are_never_cut(width: int) -> None:
    figures = [f"0.12{n}4 ±0.00{n}1" for n in range(5)]
    rows = [["published: UniSRec, text, pre-trained", *figures], ["chance", *figures]]
    screen = shown(Table(["system", *METRICS], rows), width)
    assert "…" not in screen
    for word in [*METRICS, "UniSRec,", *" ".join(figures).split()]:
        assert word in screen


def test_the_title_of_a_narrow_table_stays_in_one_line() -> None:
    screen = io.StringIO()
    title = "sasrec on shop, leave-one-out, test: 48 targets among 48 items in less than 0.1 s"
    show_table(Console(file=screen, width=100), Table(["system", "mrr"], [["sasrec", "0.1"]]), title)
    assert screen.getvalue().splitlines()[0] == title


def test_durations_are_figures() -> None:
    screen = shown(Table(["system", "training"], [["ease", "less than 0.1 s"], ["sasrec", "3.2 min"]]), 80)
    assert len({len(line.rstrip()) for line in screen.splitlines() if line.strip().endswith((" s", "min"))}) == 1


def test_counts_of_nothing_special_are_left_out_of_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    notes = {"cut_texts": "longer than 8 tokens", "empty_texts": "as the empty string"}
    figures = {"items": 0, "cut_texts": 0, "empty_texts": 1_200, "kept": None, "of": ["a", "b"], "seconds": 0.0}
    show_result("Vectors", {**figures, "items_per_second": 474.1}, notes)
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()] == [
        ["Vectors"],
        ["items", "0"],
        ["empty", "texts", "1,200", "as", "the", "empty", "string"],
        ["of", "a,", "b"],
        ["seconds", "less", "than", "0.1", "s"],
        ["items", "per", "second", "474"],
    ]


def test_texts_are_aligned_left_and_figures_right() -> None:
    screen = shown(Table(["raw id", "score", "title"], [["a", "-10.5", "Dinner plate"], ["b", "1.5", "Mug"]]), 80)
    lines = [line.rstrip() for line in screen.splitlines()]
    first, second = (next(line for line in lines if line.strip().startswith(name)) for name in ("a ", "b "))
    assert first.index("Dinner") == second.index("Mug")
    assert first.index("-10.5") + len("-10.5") == second.index("1.5") + len("1.5")
