"""A table on the screen: figures are whole whatever the width, texts wrap."""

import io

import pytest
from rich.console import Console

from linguarec.evaluation.report import Table
from linguarec.runs.tables import show_table

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


def test_texts_are_aligned_left_and_figures_right() -> None:
    screen = shown(Table(["raw id", "score", "title"], [["a", "-10.5", "Dinner plate"], ["b", "1.5", "Mug"]]), 80)
    lines = [line.rstrip() for line in screen.splitlines()]
    first, second = (next(line for line in lines if line.strip().startswith(name)) for name in ("a ", "b "))
    assert first.index("Dinner") == second.index("Mug")
    assert first.index("-10.5") + len("-10.5") == second.index("1.5") + len("1.5")
