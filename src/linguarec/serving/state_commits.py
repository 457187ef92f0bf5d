"""Writes of several threads, committed together.

A commit waits for the disk, 1 to 10 ms, however much it holds. While one runs, the writes that come are collected; the next
commit takes all of them. So a single writer waits for one commit, and many writers together are not slower than one.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from linguarec.serving.state_errors import KeyReusedError, StateUnavailableError, translated

PATIENCE = 10.0  # seconds to wait for the commits of other threads
Result = TypeVar("Result")
Work = Callable[[Connection], Result]


class _Write:
    """A write; once its thread is woken it has ended, with a result or an error, or its thread commits the next group."""

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.leads = False
        self.woken = threading.Event()


class GroupCommit:
    """Runs writes in transactions, one transaction at a time in this process.

    Args:
        engine: of the database.
        name: of the state, for messages.
        begin: called in each transaction before its writes; it locks what all writers of all processes lock first, so that
            they cannot wait for each other in a circle.
    """

    def __init__(self, engine: Engine, name: str, begin: Callable[[Connection], None]) -> None:
        self._engine, self._name, self._begin = engine, name, begin
        self._changing = threading.Lock()
        self._waiting: list[_Write] = []
        self._busy = False  # a thread commits

    def run(self, work: Work[Result]) -> Result:
        """Call `work` in a transaction; return its result once that is committed.

        Raises:
            KeyReusedError: `work` raised it, before its first change; the writes of others are not disturbed.
            StateUnavailableError: the database does not take it; nothing of it was written, unless the connection broke while
                it was committed.
        """
        write = _Write(work)
        with self._changing:
            self._waiting.append(write)
            write.leads, self._busy = not self._busy, True
        if not write.leads and not write.woken.wait(PATIENCE):
            with self._changing:
                if not write.leads and write in self._waiting:
                    self._waiting.remove(write)
                    raise StateUnavailableError(f"The state {self._name} is written by too many at once; try again.")
            write.woken.wait()
        if write.leads:
            self._commit_group()
        if write.error is not None:
            raise write.error
        result: Result = write.result
        return result

    def _commit_group(self) -> None:
        """Commit all writes that wait, the caller's among them; then a thread that came meanwhile commits the next group."""
        with self._changing:
            writes, self._waiting = self._waiting, []
        try:
            self._commit(writes)
        finally:
            with self._changing:
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].woken.set()
                else:
                    self._busy = False
            for write in writes:
                write.woken.set()

    def _commit(self, writes: list[_Write]) -> None:
        try:
            with translated(self._name), self._engine.connect() as connection:
                self._begin(connection)
                for write in writes:
                    try:
                        write.result = write.work(connection)
                    except KeyReusedError as error:
                        write.error = error
                connection.commit()
        except BaseException as error:
            # An interruption is for the thread that it met; the others are told what it means for them.
            interrupted = StateUnavailableError(f"The write to the state {self._name} was interrupted; try again.")
            for write in writes:
                write.error = error if isinstance(error, Exception) else interrupted
            raise
