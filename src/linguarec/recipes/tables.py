"""A report's table on the screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from linguarec.evaluation.report import Table


def show_table(console: "Console", table: "Table", title: str) -> None:
    """Print `table` under `title`; its first column is aligned left, the others right."""
    from rich import box
    from rich.table import Table as Screen

    screen = Screen(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(table.columns):
        screen.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
    for number, row in enumerate(table.rows):
        screen.add_row(*row, style="bold" if number in table.strong else None)
    console.print(screen)


def show_files(console: "Console", folder: Path, counts: Mapping[str, int], files: Sequence[str]) -> None:
    """Print what was counted while `files` were written into `folder`, and their sizes."""
    from rich.table import Table as Screen

    screen = Screen(title=str(folder), show_header=False, title_justify="left")
    for what, number in counts.items():
        screen.add_row(what.replace("_", " "), f"{number:,}")
    for file in files:
        screen.add_row(file, f"{(folder / file).stat().st_size:,} bytes")
    console.print(screen)
