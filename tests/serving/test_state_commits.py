"""Writes that come together are committed together; each still has its own result."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, event

from linguarec.serving import state_commits
from linguarec.serving.state import Event, ItemChange, KeyReusedError, Receipt, StateUnavailableError, Store

OpenStore = Callable[..., Store]


class Gate:
    """Holds the first transaction of a store until others wait for theirs, and counts commits."""

    def __init__(self, store: Store, waiting: int) -> None:
        self.store, self.waiting, self.commits = store, waiting, 0
        self.entered = threading.Event()
        self.fail: BaseException | None = None
        begin = store._commits._begin

        def gated(connection: Connection) -> None:
            begin(connection)
            if not self.entered.is_set():
                self.entered.set()
                while len(store._commits._waiting) < self.waiting:
                    time.sleep(0.001)
            elif self.fail:
                raise self.fail

        store._commits._begin = gated
        event.listen(store._engine, "commit", self.count)

    def count(self, _: Connection) -> None:
        self.commits += 1

    def run(self, calls: list[Callable[[], Receipt]]) -> list[Receipt | BaseException]:
        """Make a first call and then, while it runs, the others at once; returns what the others gave."""

        def result(call: Callable[[], Receipt]) -> Receipt | BaseException:
            try:
                return call()
            except (KeyReusedError, StateUnavailableError, KeyboardInterrupt) as error:
                return error

        with ThreadPoolExecutor(len(calls) + 1) as threads:
            first = threads.submit(self.store.add_events, [Event("first", "a")])
            self.entered.wait()
            results = [threads.submit(result, call) for call in calls]
            assert first.result() == Receipt(1)
            return [ended.result() for ended in results]


def test_writes_that_wait_are_committed_at_once(store: Store) -> None:
    gate = Gate(store, 20)
    events = [lambda number=number: store.add_events([Event("u", str(number))]) for number in range(10)]
    items = [lambda number=number: store.change_items([ItemChange(str(number), {})]) for number in range(10)]
    results = gate.run([*events, *items])
    assert gate.commits == 2
    assert sorted(receipt.sequence for receipt in results[:10]) == list(range(2, 12))  # type: ignore[union-attr]
    assert sorted(receipt.sequence for receipt in results[10:]) == list(range(1, 11))  # type: ignore[union-attr]
    for number in range(10):  # each receipt is of its own write
        [change] = [change for change in store.changes_after(0) if change.raw_id == str(number)]
        assert results[10 + number] == Receipt(change.sequence)
    assert sorted(store.history("u", 99)) == [str(number) for number in range(10)]
    assert store.counts() == {"events": 11, "items": 10, "removed": 0, "users": 2}


def test_a_refused_write_does_not_disturb_those_beside_it(store: Store) -> None:
    store.change_items([ItemChange("old", {})], key="used")
    gate = Gate(store, 6)
    results = gate.run(
        [
            lambda: store.change_items([ItemChange("a", {})]),
            lambda: store.change_items([ItemChange("b", {})], key="used"),
            lambda: store.change_items([ItemChange("old", {})], key="used"),
            lambda: store.change_items([ItemChange("c", {})], key="twice"),
            lambda: store.change_items([ItemChange("c", {})], key="twice"),
            lambda: store.change_items([ItemChange("d", {})]),
        ]
    )
    assert isinstance(results[1], KeyReusedError)
    assert results[2] == Receipt(1, repeated=True)
    assert {results[3].repeated, results[4].repeated} == {False, True}  # type: ignore[union-attr]
    assert results[3].sequence == results[4].sequence  # type: ignore[union-attr]
    assert {change.raw_id for change in store.changes_after(0)} == {"old", "a", "c", "d"}
    assert store.last_sequence() == 4
    assert gate.commits == 2


def test_a_transaction_that_fails_fails_all_its_writes(store: Store) -> None:
    gate = Gate(store, 5)
    gate.fail = StateUnavailableError("gone")
    results = gate.run([lambda: store.add_events([Event("u", "a")], key="k")] * 5)
    assert [str(error) for error in results] == ["gone"] * 5
    assert store.counts()["events"] == 1
    gate.fail = None
    assert store.add_events([Event("u", "a")], key="k") == Receipt(2)


def test_an_interruption_is_for_one_thread_and_the_others_may_try_again(store: Store) -> None:
    gate = Gate(store, 5)
    gate.fail = KeyboardInterrupt()
    results = gate.run([lambda: store.add_events([Event("u", "a")], key="k")] * 5)
    others = [result for result in results if not isinstance(result, KeyboardInterrupt)]
    assert len(others) == 4
    assert all(isinstance(error, StateUnavailableError) and "was interrupted" in str(error) for error in others)
    gate.fail = None
    assert store.add_events([Event("u", "a")], key="k") == Receipt(2)


def test_a_write_that_waits_too_long_is_not_made_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_commits, "PATIENCE", 0.05)
    entered, leave = threading.Event(), threading.Event()
    begin = store._commits._begin

    def held(connection: Connection) -> None:
        entered.set()
        leave.wait()
        begin(connection)

    monkeypatch.setattr(store._commits, "_begin", held)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(store.add_events, [Event("u", "a")])
        entered.wait()
        with pytest.raises(StateUnavailableError, match="is written by too many at once; try again"):
            store.add_events([Event("u", "b")])
        leave.set()
        assert first.result() == Receipt(1)
    assert store.add_events([Event("u", "c")]) == Receipt(2)
    assert store.history("u", 9) == ["a", "c"]


def test_many_threads_all_get_their_turn(store: Store) -> None:
    def write(thread: int) -> list[int]:
        return [store.add_events([Event(f"u{thread}", str(number))]).sequence for number in range(10)]

    with ThreadPoolExecutor(16) as threads:
        numbers = list(threads.map(write, range(16)))
    assert all(own == sorted(own) for own in numbers)
    assert sorted(number for own in numbers for number in own) == list(range(1, 161))
    for thread in range(16):
        assert sorted(store.history(f"u{thread}", 99)) == sorted(map(str, range(10)))
