"""Processes that write to a state in several threads and note each call once it is acknowledged; tests kill them.

Thread `t` makes the calls 0, 1, 2, ... of `operation`, each with a key. What a state must hold after the first `n` calls of a
thread is `expected`.
"""

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from linguarec.serving.state import Event, ItemChange, StateUnavailableError, Store

BULK = 20
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["linguarec.serving.state"])


def operation(thread: int, number: int) -> tuple[list[ItemChange], list[Event]]:
    """What a call writes: interactions, one item, many items, or the removal of the item of two calls before."""
    name = f"{thread}-{number}"
    match number % 4:
        case 0:
            return [], [Event(f"u{thread}", f"{name}-{part}", 1) for part in range(3)]
        case 1:
            return [ItemChange(name, {"number": number}, name.encode())], []
        case 2:
            return [ItemChange(f"{name}-{part}", {"number": number, "part": part}) for part in range(BULK)], []
        case _:
            return [ItemChange(f"{thread}-{number - 2}", None)], []


@dataclass
class Content:
    """What a state holds of one thread."""

    items: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # raw id: attributes, vector
    history: list[str] = field(default_factory=list)


def expected(thread: int, calls: int) -> Content:
    """The content after the first calls of a thread, each made once."""
    content = Content()
    for number in range(calls):
        changes, events = operation(thread, number)
        content.items |= {change.raw_id: (change.attributes, change.vector) for change in changes}
        content.history += [event.raw_id for event in events]
    return content


def stored(store: Store, thread: int) -> Content:
    """The content that a store has of a thread."""
    changes = [change for change in store.changes_after(0, 10**9) if change.raw_id.startswith(f"{thread}-")]
    items = {change.raw_id: (change.attributes, change.vector) for change in changes}
    return Content(items, store.history(f"u{thread}", 10**9))


def write(store: Store, thread: int, number: int) -> None:
    """Make one call."""
    changes, events = operation(thread, number)
    if events:
        store.add_events(events, key=f"{thread}-{number}")
    else:
        store.change_items(changes, key=f"{thread}-{number}")


def _work(url: str, log: str, first: list[int]) -> None:
    acknowledged = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    store = Store.open(url, "run")

    def run(thread: int, number: int) -> None:
        while True:
            try:
                write(store, thread, number)
            except StateUnavailableError:
                time.sleep(0.02)
                continue
            os.write(acknowledged, f"{thread} {number}\n".encode())
            number += 1

    for thread, number in enumerate(first):
        threading.Thread(target=run, args=(thread, number)).start()


class Writer:
    """A process that writes. `acknowledged()`: how many calls of each thread were, in all processes so far."""

    def __init__(self, url: str, first: list[int], log: Path) -> None:
        self.first, self.log = first, log
        self.process = _context.Process(target=_work, args=(url, str(log), first))
        self.process.start()

    def acknowledged(self) -> list[int]:
        """The number of acknowledged calls, by thread."""
        done = list(self.first)
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            thread, number = map(int, line.split())
            assert number == done[thread], "the calls of a thread are acknowledged in order"
            done[thread] += 1
        return done

    def wait_for(self, calls: int, seconds: float = 60) -> list[int]:
        """Wait until so many more calls are acknowledged; returns `acknowledged()`."""
        until = time.monotonic() + seconds
        more = sum(self.acknowledged()) + calls
        while sum(done := self.acknowledged()) < more:
            assert self.process.is_alive() and time.monotonic() < until, "the writer does not go on"
            time.sleep(0.002)
        return done

    def kill(self) -> list[int]:
        """Kill the process; returns what was acknowledged until then."""
        self.process.kill()
        self.process.join()
        return self.acknowledged()


@contextlib.contextmanager
def writing(url: str, first: list[int]) -> Iterator[Writer]:
    """A process that writes, killed at the end. `first`: the number of the first call of each thread."""
    with TemporaryDirectory() as folder:
        writer = Writer(url, first, Path(folder) / "acknowledged")
        try:
            yield writer
        finally:
            writer.kill()
