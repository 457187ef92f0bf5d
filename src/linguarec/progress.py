"""Progress bars with a rate, on standard error, for anything that can take more than two seconds."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from linguarec.processes import is_main_process
from linguarec.screen import visible

if TYPE_CHECKING:
    from rich.progress import Progress

_open: "list[Progress]" = []  # what is drawn now; a bar within another one is a row of it


class Advance(Protocol):
    """Report `amount` more units done."""

    def __call__(self, amount: int = 1) -> None: ...


@contextmanager
def progress_bar(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show a bar with done/total, rate in `unit`/s and the time left; yields the function that advances it.

    A bar that is opened while another one is shown stands below that one, and vanishes at its end. Nothing is drawn when
    standard error is not a terminal, or in the later ones of several processes.
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
            return Text("" if speed is None else _rate(speed, task.fields["unit"]))

    if _open:
        bar = _open[-1]
        task = bar.add_task(visible(description), total=total, unit=unit)
        try:
            yield lambda amount=1: bar.advance(task, amount)
        finally:
            bar.remove_task(task)
        return
    console = Console(stderr=True)
    title = TextColumn("{task.description}", markup=False)
    columns = (title, BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with (
        Progress(*columns, console=console, disable=not (console.is_terminal and is_main_process())) as bar,
        _messages_above(bar),
    ):
        task = bar.add_task(visible(description), total=total, unit=unit)
        _open.append(bar)
        try:
            yield lambda amount=1: bar.advance(task, amount)
        finally:
            _open.remove(bar)


def _rate(speed: float, unit: str) -> str:
    """A rate in units a second, or a minute where that is easier to read.

    >>> _rate(1234.5, "steps"), _rate(1.46, "rounds"), _rate(0.05, "trials")
    ('1,234 steps/s', '1.5 rounds/s', '3.0 trials/min')
    """
    if speed < 1:
        return f"{60 * speed:.1f} {unit}/min"
    return f"{speed:,.{0 if speed >= 10 else 1}f} {unit}/s"


@contextmanager
def _messages_above(bar: "Progress") -> Iterator[None]:
    """While a bar is drawn, messages that are logged to standard error stand above it instead of in it."""
    replaced = None if bar.disable else getattr(sys.stderr, "rich_proxied_file", None)  # by rich, meanwhile
    handlers = [each for each in logging.getLogger().handlers if type(each) is logging.StreamHandler]
    moved = [each for each in handlers if replaced is not None and each.stream is replaced]
    for each in moved:
        each.setStream(sys.stderr)
    try:
        yield
    finally:
        for each in moved:
            each.setStream(replaced)
