"""Tables on the screen."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.durations import duration_text
from linguarec.screen import visible, visible_lines

if TYPE_CHECKING:
    from rich.console import Console

    from linguarec.evaluation.report import Table

# A figure with or without its sign, unit and interval, such as "+0.01 (0.00 to +0.02)" or "6 s", or an empty cell.
_FIGURE = re.compile(r"(less than )?[-\d\s.,:%±+<≤()–]*(to [-\d\s.,+()]*)?( ?(s|min|hours|MiB|GiB))?")
_TEXT_WIDTH = 11  # least width of a text column that holds a word of this length


def plain_console() -> "Console":
    """A console that prints text as it is: [red] is not a colour, :on: not an emoji, and control characters are escapes."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        """Every text of a line or a table passes through `render_str` before it is measured."""

        def render_str(self, text: str, **settings: Any) -> Text:
            return super().render_str(visible_lines(text), **settings)

    return Plain(markup=False, emoji=False)


def show_table(console: "Console", table: "Table", title: str) -> None:
    """Print `table` under `title`: figures aligned right and never cut, texts left and wrapped where the screen is narrow."""
    from rich import box
    from rich.table import Table as Screen

    show_title(console, visible(title))
    screen = Screen(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [[visible(cell) for cell in row] for row in table.rows]
    for number, column in enumerate(map(visible, table.columns)):
        cells = [row[number] for row in shown]
        figures = number > 0 and all(_FIGURE.fullmatch(cell) for cell in cells)
        word = max(map(len, " ".join([column, *cells]).split()), default=0)
        screen.add_column(
            column,
            justify="right" if figures else "left",
            min_width=word if figures else min(word, _TEXT_WIDTH),
            overflow="fold",
        )
    for number, row in enumerate(shown):
        screen.add_row(*row, style="bold" if number in table.strong else None)
    console.print(screen, crop=False)  # lines may be longer than a narrow screen, but no figure is cut


def show_figures(title: str, rows: Iterable[Sequence[str]]) -> None:
    """Print figures under `title`, one a row: what it is, its value and, in a third cell, a note on it."""
    from rich import box
    from rich.table import Table as Screen

    console = plain_console()
    show_title(console, title)
    screen = Screen(box=box.SIMPLE_HEAD, show_header=False)
    for row in rows:
        screen.add_row(*row)
    console.print(screen)


def show_result(title: str, figures: Mapping[str, Any], notes: Mapping[str, str]) -> None:
    """Print the figures of a result under `title`, with notes on some.

    What is None is left out, and so is a figure with a note that is 0: it counts what is special, and there is none.
    """
    rows = []
    for key, value in figures.items():
        if value is not None and (value or key not in notes):
            rows.append((key.replace("_", " "), _figure_text(key, value), notes.get(key, "")))
    show_figures(title, rows)


def _figure_text(key: str, value: Any) -> str:
    if key == "seconds":
        return duration_text(value)
    if key == "items_per_second" and value >= 10:
        return f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def show_title(console: "Console", title: str) -> None:
    """Print the title of a table on a line of its own: rich would fold it to the width of the table."""
    console.print(title, style="table.title", highlight=False, soft_wrap=True)


def show_files(console: "Console", folder: Path, counts: Mapping[str, int], files: Sequence[str]) -> None:
    """Print what was counted while `files` were written into `folder`, and their sizes."""
    from rich.table import Table as Screen

    show_title(console, str(folder))
    screen = Screen(show_header=False)
    for what, number in counts.items():
        screen.add_row(what.replace("_", " "), f"{number:,}")
    for file in files:
        screen.add_row(file, f"{(folder / file).stat().st_size:,} bytes")
    console.print(screen)
