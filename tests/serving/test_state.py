"""The state, with both engines: what is written is read back, in order, once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from linguarec.errors import DataFormatError
from linguarec.serving import state
from linguarec.serving.state import Event, ItemChange, KeyReusedError, Receipt, Store

OpenStore = Callable[..., Store]
# A character of each plane, its last one too; ids that differ only in normalisation, case or blanks; what SQL reads.
PLANES = [chr((plane << 16) + 0x41) for plane in range(17)] + [chr((plane << 16) + 0xFFFF) for plane in range(17)]
ODD = [
    "\u00e9",
    "e\u0301",
    "E",
    "e",
    "e ",
    " e",
    "",
    "'; DROP TABLE linguarec_items; --",
    "%",
    "_",
    "\x01",
    "\x1b[2J",
    "\r\n",
    "\u202e",
]


def test_changes_are_read_back_as_they_were_given(store: Store) -> None:
    vector = np.linspace(-1, 1, 384, dtype=np.float32).tobytes()
    attributes: dict[str, Any] = {"title": 'Oil "€" \U0001f600 \0', "price": 0.1 + 0.2, "year": 1 << 60, "brand": None}
    given = [ItemChange("b", attributes, vector), ItemChange("a", {}), ItemChange("gone", None)]
    assert store.change_items(given) == Receipt(3)
    expected = [ItemChange(change.raw_id, change.attributes, change.vector, n) for n, change in enumerate(given, 1)]
    found = store.changes_after(0)
    assert found == expected
    assert isinstance(found[0].attributes["year"], int) and found[0].vector == vector  # type: ignore[index]
    assert store.last_sequence() == 3
    assert store.counts() == {"events": 0, "items": 2, "removed": 1, "users": 0}


def test_the_newest_change_of_an_item_counts(store: Store) -> None:
    store.change_items([ItemChange("a", {"n": 1}), ItemChange("b", {"n": 2}), ItemChange("a", {"n": 3})])
    assert [(change.raw_id, change.attributes, change.sequence) for change in store.changes_after(0)] == [
        ("b", {"n": 2}, 1),
        ("a", {"n": 3}, 2),
    ]
    store.change_items([ItemChange("b", None)])
    assert store.changes_after(1) == [ItemChange("a", {"n": 3}, None, 2), ItemChange("b", None, None, 3)]
    assert store.counts() == {"events": 0, "items": 1, "removed": 1, "users": 0}
    store.change_items([ItemChange("b", {"n": 4}, b"1234")])
    assert store.changes_after(2) == [ItemChange("b", {"n": 4}, b"1234", 4)]
    assert store.changes_after(4) == []
    assert store.counts() == {"events": 0, "items": 2, "removed": 0, "users": 0}


def test_changes_are_read_in_parts(store: Store) -> None:
    assert store.change_items([ItemChange(f"i{number}", {"n": number}) for number in range(2_345)]).sequence == 2_345
    read: list[ItemChange] = []
    while some := store.changes_after(read[-1].sequence if read else 0, limit=1_000):
        assert len(some) <= 1_000
        read += some
    assert [change.raw_id for change in read] == [f"i{number}" for number in range(2_345)]
    assert store.counts()["items"] == 2_345


def test_nothing_to_write_is_no_change(store: Store) -> None:
    assert store.change_items([]) == Receipt(0)
    assert store.add_events([]) == Receipt(0)
    assert store.import_histories([]) == 0
    assert store.histories([], 5) == {}
    assert store.counts() == {"events": 0, "items": 0, "removed": 0, "users": 0}


def test_a_history_is_ordered_by_time_and_then_as_it_came(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_now", lambda: 1_000)
    assert store.add_events([Event("u", "late", 5_000), Event("u", "now"), Event("v", "x", 1)]) == Receipt(3)
    assert store.add_events([Event("u", "early", -5), Event("u", "now 2"), Event("u", "now", 1_000)]) == Receipt(6)
    assert store.history("u", 50) == ["early", "now", "now 2", "now", "late"]
    assert store.history("u", 2) == ["now", "late"]
    assert store.history("nobody", 9) == []
    assert store.histories(["v", "nobody", "u"], 1) == {"v": ["x"], "nobody": [], "u": ["late"]}
    assert store.counts() == {"events": 6, "items": 0, "removed": 0, "users": 2}


def test_histories_of_many_users_at_once(store: Store) -> None:
    store.add_events([Event(f"u{number % 1_200}", str(number), number) for number in range(3_600)])
    found = store.histories([f"u{number}" for number in range(1_200)], 2)
    assert found == {f"u{number}": [str(number + 1_200), str(number + 2_400)] for number in range(1_200)}
    assert store.counts()["users"] == 1_200


def test_imported_histories_come_first_and_are_added_once(store: Store) -> None:
    store.add_events([Event("u", "live", -(1 << 60))])
    given = [("u", ["a", "b", "a"]), ("v", ["c"]), ("w", [])]
    assert store.import_histories([*given, ("u", ["second"])]) == 3
    assert store.import_histories([*given, ("x", ["d"])]) == 1
    assert store.histories(["u", "v", "w", "x"], 9) == {"u": ["a", "b", "a", "live"], "v": ["c"], "w": [], "x": ["d"]}
    assert store.history("u", 2) == ["a", "live"]
    assert store.counts() == {"events": 6, "items": 0, "removed": 0, "users": 4}


def test_an_interrupted_import_is_completed_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_USERS_AT_ONCE", 1_000)
    users = [(f"u{number}", [str(number), "x"]) for number in range(2_500)]

    def broken() -> Any:
        yield from users[:1_700]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.import_histories(broken())
    assert store.counts()["users"] == 1_000  # whole transactions
    assert store.import_histories(users) == 1_500
    assert store.import_histories(users) == 0
    assert store.counts() == {"events": 5_000, "items": 0, "removed": 0, "users": 2_500}
    assert store.histories(["u0", "u2499"], 9) == {"u0": ["0", "x"], "u2499": ["2499", "x"]}


def test_a_key_writes_once(store: Store) -> None:
    events = [Event("u", "a", 1), Event("u", "b")]
    assert store.add_events(events, key="k1") == Receipt(2)
    assert store.add_events(events, key="k1") == Receipt(2, repeated=True)
    assert store.add_events(events, key="k2") == Receipt(4)
    changes = [ItemChange("a", {"n": 1}, b"1234")]
    assert store.change_items(changes, key="k3") == Receipt(1)
    assert store.change_items([ItemChange("a", {"n": 2})]) == Receipt(2)
    assert store.change_items(changes, key="k3") == Receipt(1, repeated=True)
    assert store.changes_after(0) == [
        ItemChange("a", {"n": 2}, None, 2)
    ]  # the repeated call did not undo the later one
    assert store.history("u", 9) == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    "other",
    [
        lambda store: store.add_events([Event("u", "a", 2)], key="k"),
        lambda store: store.add_events([Event("u", "a", 1), Event("u", "a", 1)], key="k"),
        lambda store: store.add_events([Event("u", "a")], key="k"),
        lambda store: store.add_events([Event("a", "u", 1)], key="k"),
        lambda store: store.change_items([ItemChange("a", None)], key="k"),
        lambda store: store.change_items([], key="k"),
    ],
)
def test_a_key_of_other_content_is_refused(store: Store, other: Callable[[Store], Receipt]) -> None:
    store.add_events([Event("u", "a", 1)], key="k")
    with pytest.raises(KeyReusedError, match="'k' was used before for other content; nothing was written"):
        other(store)
    assert store.counts() == {"events": 1, "items": 0, "removed": 0, "users": 1}
    assert store.last_sequence() == 0
    assert store.add_events([Event("u", "a", 1)]) == Receipt(2)  # a refused call used up no number


def test_other_vectors_are_other_content_unless_the_caller_says_what_it_is(store: Store) -> None:
    store.change_items([ItemChange("a", {}, b"1234")], key="given")
    with pytest.raises(KeyReusedError):
        store.change_items([ItemChange("a", {}, b"1235")], key="given")
    store.change_items([ItemChange("a", {}, b"1234")], key="computed", content="body 1")
    assert store.change_items([ItemChange("a", {}, b"1235")], key="computed", content="body 1") == Receipt(2, True)
    with pytest.raises(KeyReusedError):
        store.change_items([ItemChange("a", {}, b"1234")], key="computed", content="body 2")


def test_keys_are_forgotten_after_thirty_days(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    days = 0
    monkeypatch.setattr(state, "_now", lambda: 1_800_000_000 + days * 86_400)
    store.add_events([Event("u", "a", 1)], key="k")
    days = 30
    assert store.add_events([Event("u", "a", 1)], key="k").repeated
    days = 31  # and more than an hour after the last look
    assert store.add_events([Event("u", "b", 1)], key="k") == Receipt(2)
    assert store.history("u", 9) == ["a", "b"]


@pytest.mark.parametrize("write", ["events", "items"])
def test_calls_with_one_key_at_the_same_time_write_once(open_store: OpenStore, write: str) -> None:
    stores = [open_store(), open_store()]
    together = threading.Barrier(8)

    def call(number: int) -> Receipt:
        together.wait()
        if write == "items":
            return stores[number % 2].change_items([ItemChange("a", {"n": 1})], key="k")
        return stores[number % 2].add_events([Event("u", "a", 1)], key="k")

    with ThreadPoolExecutor(8) as threads:
        receipts = list(threads.map(call, range(8)))
    assert sorted(receipt.repeated for receipt in receipts) == [False] + [True] * 7
    assert {receipt.sequence for receipt in receipts} == {1}
    counts = stores[0].counts()
    assert (counts["events"], counts["items"]) == ((1, 0) if write == "events" else (0, 1))


def test_ids_of_every_plane_are_told_apart(store: Store) -> None:
    ids = [*PLANES, *ODD, "".join(PLANES)]
    assert len(set(ids)) == len(ids)
    store.change_items([ItemChange(raw_id, {"as": raw_id}) for raw_id in ids])
    store.add_events([Event(user, user, 1) for user in ids])
    assert [(change.raw_id, change.attributes) for change in store.changes_after(0)] == [
        (name, {"as": name}) for name in ids
    ]
    assert store.histories(ids, 9) == {name: [name] for name in ids}
    assert store.counts() == {"events": len(ids), "items": len(ids), "removed": 0, "users": len(ids)}
    store.change_items([ItemChange("e\u0301", None)])
    assert store.counts()["removed"] == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\0b", r"character 2 is NUL \(U\+0000\)"),
        ("ab\ud800", "character 3 is half of a surrogate pair"),
        ("\udfff\ud800", "character 1 is half of a surrogate pair"),
        ("é" * 1_001, "2,002 bytes in UTF-8, at most 2,000"),
        (5, "it is a int, expected text"),
    ],
)
def test_ids_that_no_database_stores_are_refused(store: Store, name: Any, reason: str) -> None:
    calls = [
        (lambda: store.change_items([ItemChange("ok", {}), ItemChange(name, {})]), "an item id"),
        (lambda: store.add_events([Event("ok", "ok"), Event(name, "a")]), "a user id"),
        (lambda: store.add_events([Event("ok", name)]), "an item id"),
        (lambda: store.import_histories([("ok", ["ok"]), (name, ["a"])]), "a user id"),
        (lambda: store.import_histories([("ok", ["ok", name])]), "an item id"),
        (lambda: store.add_events([Event("ok", "ok")], key=name), "an idempotency key"),
    ]
    for call, what in calls:
        with pytest.raises(DataFormatError, match=f"cannot be {what}: .*{reason}"):
            call()
    assert store.history(name, 5) == []
    assert store.counts() == {"events": 0, "items": 0, "removed": 0, "users": 0}
    assert store.last_sequence() == 0


def test_the_longest_ids_fit_the_indexes(store: Store) -> None:
    digits = np.random.default_rng(0).integers(0x10000, 0x1FFFF, 500)  # do not compress
    name = "".join(chr(number) for number in digits)
    assert len(name.encode()) == 2_000
    store.change_items([ItemChange(name, {})])
    store.add_events([Event(name, name)], key=name)
    assert store.history(name, 1) == [name]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "NaN or infinite"),
        (float("inf"), "NaN or infinite"),
        ("\ud800", "half of a surrogate pair"),
        (True, "is a bool"),
        (["a"], "is a list"),
        ({"a": 1}, "is a dict"),
    ],
)
def test_attributes_that_cannot_be_stored_are_refused(store: Store, value: Any, reason: str) -> None:
    with pytest.raises(DataFormatError, match=f"'i7'.*{reason}"):
        store.change_items([ItemChange("ok", {"a": 1}), ItemChange("i7", {"bad": value})])
    assert store.last_sequence() == 0


@pytest.mark.parametrize("timestamp", [1 << 63, -(1 << 63), 1.5, "now"])
def test_timestamps_that_are_no_seconds_are_refused(store: Store, timestamp: Any) -> None:
    with pytest.raises(DataFormatError, match="seconds since 1970; expected an integer of 64 bits"):
        store.add_events([Event("u", "a", timestamp)])
    assert store.counts()["events"] == 0


def test_a_state_keeps_the_run_that_it_was_made_for(open_store: OpenStore) -> None:
    first = open_store("run 1")
    assert first.run == "run 1"
    second = open_store("run 2")
    assert second.run == "run 1"
    second.set_run("run 2")
    assert (second.run, open_store("run 3").run) == ("run 2", "run 2")


def test_stores_that_open_at_the_same_time_make_one_state(open_store: OpenStore) -> None:
    together = threading.Barrier(4)

    def write(number: int) -> Store:
        together.wait()
        store = open_store("run")
        store.change_items([ItemChange(f"i{number}", {})])
        return store

    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(write, range(4)))
    assert [store.counts()["items"] for store in stores] == [4] * 4
    assert stores[0].last_sequence() == 4
