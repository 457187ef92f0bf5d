"""Progress bars with a rate, on standard error, for anything that can take more than two seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from linguarec.screen import visible


class Advance(Protocol):
    """Report `amount` more units done."""

    def __call__(self, amount: int = 1) -> None: ...


@contextmanager
def progress_bar(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show a bar with done/total, rate in `unit`/s and the time left; yields the function that advances it.

    Nothing is drawn when standard error is not a terminal; then only start and end are logged.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s")

    console = Console(stderr=True)
    title = TextColumn("{task.description}", markup=False)
    columns = (title, BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(visible(description), total=total)

        def advance(amount: int = 1) -> None:
            bar.advance(task, amount)

        yield advance
