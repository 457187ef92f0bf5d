"""The durable state of a service: changes of the catalogue, users' interactions, idempotency keys.

Nothing is acknowledged before it is on the disk: a call that returns has committed its transaction, and a process that is
killed at any moment leaves whole calls behind. Several processes may use one state; they follow each other by `changes_after`.
"""

import contextlib
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from linguarec.errors import DataFormatError, quoted
from linguarec.serving.engines import PATIENCE, Opened, open_database
from linguarec.serving.schema import ABOUT, BEFORE_ALL, COUNTED, COUNTERS, EVENTS, ITEMS, KEYS, USERS
from linguarec.serving.state_errors import (
    KeyReusedError,
    StateBrokenError,
    StateFullError,
    StateUnavailableError,
    translated,
)

__all__ = [
    "Event",
    "ItemChange",
    "KeyReusedError",
    "Receipt",
    "StateBrokenError",
    "StateFullError",
    "StateUnavailableError",
    "Store",
]

KEPT_DAYS = 30  # an idempotency key is remembered for so long
LONGEST_ID = 2_000  # bytes of UTF-8: PostgreSQL's indexes take 2,700
LARGEST = 1 << 63
Value = TypeVar("Value")
_AT_ONCE = 1_000  # values of one statement; users of one transaction of an import


@dataclass(frozen=True)
class ItemChange:
    """A live change of the catalogue: an item added or replaced, or removed.

    Args:
        raw_id: the item.
        attributes: its columns; None = the item was removed.
        vector: float32 bytes of its feature vector, so that a restart need not encode it again.
        sequence: number of the change, given by the store.
    """

    raw_id: str
    attributes: Mapping[str, str | float | None] | None
    vector: bytes | None = None
    sequence: int = 0


@dataclass(frozen=True)
class Event:
    """An interaction of a user with an item. `timestamp`: seconds since 1970, None = when the store receives it."""

    user: str
    raw_id: str
    timestamp: int | None = None


@dataclass(frozen=True)
class Receipt:
    """What was written: the number of its last change (or interaction, which are counted apart).

    `repeated`: the idempotency key was seen before with the same content, and nothing was written again.
    """

    sequence: int
    repeated: bool = False


class Store:
    """An open state. Thread-safe; several stores, in several processes, may be open on one state.

    Every method raises StateUnavailableError while the database cannot be reached, is locked, full or read-only, and works
    again afterwards; StateBrokenError if it is damaged.
    """

    def __init__(self, opened: Opened) -> None:
        self._engine = opened.engine
        self._writing = opened.engine.execution_options(writes=True)
        self._file = opened.file
        self._run = opened.run
        self.name = opened.name  # for messages: without a password
        self._insert = sqlite.insert if opened.engine.dialect.name == "sqlite" else postgresql.insert
        # SQLite's writers poll for their turn: the threads of one process wait in a queue instead.
        self._turn = threading.Lock() if opened.file else None

    @classmethod
    def open(cls, url: str, run: str) -> "Store":
        """Open a state; create it where there is none.

        Args:
            url: sqlite:///FILE, a path, or postgresql://USER:PASSWORD@HOST/DATABASE.
            run: fingerprint of the run's catalogue, kept in a new state. An old one keeps its own: compare `run`.

        Raises:
            SettingsError: the URL is none of these.
            StateUnavailableError: no such folder, locked, not writable, server not reachable.
            StateBrokenError: damaged, of another program, of another schema version. It is left as it is.
        """
        return cls(open_database(url, run))

    def __repr__(self) -> str:
        return f"Store({self.name!r})"

    @property
    def run(self) -> str:
        """Fingerprint of the run that the changes of the catalogue belong to."""
        return self._run

    def set_run(self, run: str) -> None:
        """Note that the state belongs to another run from now on."""
        with self._transaction() as connection:
            connection.execute(update(ABOUT).values(run=run))
            connection.commit()
        self._run = run

    # -- writing -------------------------------------------------------------------------------------------------------

    def change_items(
        self, changes: Sequence[ItemChange], key: str | None = None, content: str | None = None
    ) -> Receipt:
        """Add, replace or remove items, in one transaction. Of several changes of one item the last one counts.

        Args:
            changes: in order; their `sequence` is given here.
            key: idempotency key.
            content: what the key stands for, if not the changes themselves: vectors of an encoder may differ in their last
                bits when the same call is repeated.

        Raises:
            DataFormatError: an id or an attribute that cannot be stored; nothing was written.
            KeyReusedError: the key was used for other content; nothing was written.
        """
        newest: dict[str, ItemChange] = {}
        for change in changes:
            newest.pop(change.raw_id, None)
            newest[change.raw_id] = change
        rows: list[dict[str, Any]] = [
            {
                "raw_id": checked(raw_id, "an item id"),
                "attributes": _as_json(change),
                "vector": change.vector,
            }
            for raw_id, change in newest.items()
        ]
        digest = _digest("items", content or [[*row.values()] for row in rows])
        with self._transaction() as connection:
            last = self._count(connection, "sequence", len(rows))
            if earlier := self._earlier(connection, key, digest, last):
                return earlier
            for number, row in enumerate(rows, start=last - len(rows) + 1):
                row["sequence"] = number
            before = [0, 0]
            for ids in _chunks(newest, _AT_ONCE):
                removed = select(ITEMS.c.attributes.is_(None), func.count()).where(ITEMS.c.raw_id.in_(ids))
                for is_removed, count in connection.execute(removed.group_by(ITEMS.c.attributes.is_(None))):
                    before[bool(is_removed)] += count
            statement = self._insert(ITEMS)
            new = {name: statement.excluded[name] for name in ("attributes", "vector", "sequence")}
            if rows:
                connection.execute(statement.on_conflict_do_update(index_elements=["raw_id"], set_=new), rows)
            removals = sum(row["attributes"] is None for row in rows)
            self._count(connection, "items", len(rows) - removals - before[False])
            self._count(connection, "removed", removals - before[True])
            connection.commit()
        return Receipt(last)

    def add_events(self, events: Sequence[Event], key: str | None = None) -> Receipt:
        """Append interactions, in one transaction; `Receipt.sequence` counts interactions.

        Raises:
            DataFormatError: an id or a timestamp that cannot be stored; nothing was written.
            KeyReusedError: the key was used for other content; nothing was written.
        """
        rows: list[dict[str, Any]] = [
            {
                "user_id": checked(event.user, "a user id"),
                "raw_id": checked(event.raw_id, "an item id"),
                "moment": _moment(event),
            }
            for event in events
        ]
        digest = _digest("events", [[*row.values()] for row in rows])
        with self._transaction() as connection:
            last = self._count(connection, "events", len(rows))
            if earlier := self._earlier(connection, key, digest, last):
                return earlier
            now = _now()
            for number, row in enumerate(rows, start=last - len(rows) + 1):
                row["number"] = number
                row["moment"] = now if row["moment"] is None else row["moment"]
            self._add_users(connection, {row["user_id"] for row in rows})
            if rows:
                connection.execute(insert(EVENTS), rows)
            connection.commit()
        return Receipt(last)

    def import_histories(self, users: Iterable[tuple[str, Sequence[str]]]) -> int:
        """Histories from training data; they come before all interactions of `add_events`.

        A user whose history was imported before is left out, so a repeated import, or one that goes on after it was
        interrupted, adds nothing twice.

        Returns:
            The number of users whose histories were added.

        Raises:
            DataFormatError: an id that cannot be stored.
        """
        added = 0
        for some in _chunks(users, _AT_ONCE):
            histories = {
                checked(user, "a user id"): [checked(raw_id, "an item id") for raw_id in items] for user, items in some
            }
            with self._transaction() as connection:
                self._count(connection, "events", 0)  # takes the turn
                there = select(USERS.c.user_id).where(USERS.c.imported, USERS.c.user_id.in_(list(histories)))
                for user in connection.execute(there).scalars():
                    del histories[user]
                self._add_users(connection, histories)
                mark = update(USERS).where(USERS.c.user_id == bindparam("user")).values(imported=True)
                if histories:
                    connection.execute(mark, [{"user": user} for user in histories])
                flat = [(user, raw_id) for user, items in histories.items() for raw_id in items]
                first = self._count(connection, "events", len(flat)) - len(flat) + 1
                rows = [
                    {"number": number, "user_id": user, "raw_id": raw_id, "moment": BEFORE_ALL}
                    for number, (user, raw_id) in enumerate(flat, start=first)
                ]
                if rows:
                    connection.execute(insert(EVENTS), rows)
                connection.commit()
            added += len(histories)
        return added

    # -- reading -------------------------------------------------------------------------------------------------------

    def changes_after(self, sequence: int, limit: int = 10_000) -> list[ItemChange]:
        """The newest change of each item that has a greater number, ascending by number, at most `limit`."""
        chosen = select(ITEMS).where(ITEMS.c.sequence > sequence).order_by(ITEMS.c.sequence).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(chosen).all()
        return [
            ItemChange(
                row.raw_id, None if row.attributes is None else json.loads(row.attributes), row.vector, row.sequence
            )
            for row in rows
        ]

    def history(self, user: str, limit: int) -> list[str]:
        """The last `limit` items of a user, oldest first: by timestamp, then as they came. Unknown users have none."""
        return self.histories([user], limit)[user]

    def histories(self, users: Sequence[str], limit: int) -> dict[str, list[str]]:
        """`history` of several users, by user."""
        newest_first = (EVENTS.c.moment.desc(), EVENTS.c.number.desc())
        place = func.row_number().over(partition_by=EVENTS.c.user_id, order_by=newest_first).label("place")
        found: dict[str, list[str]] = {user: [] for user in users}
        with self._reading() as connection:
            for some in _chunks(found, _AT_ONCE):
                known = [user for user in some if not _problem(user)]
                ranked = select(EVENTS.c.user_id, EVENTS.c.raw_id, place).where(EVENTS.c.user_id.in_(known)).subquery()
                last = select(ranked).where(ranked.c.place <= limit).order_by(ranked.c.place.desc())
                for row in connection.execute(last):
                    found[row.user_id].append(row.raw_id)
        return found

    def last_sequence(self) -> int:
        """The number of the last change of the catalogue; 0 = there was none."""
        with self._reading() as connection:
            return int(connection.execute(select(COUNTERS.c.value).where(COUNTERS.c.name == "sequence")).scalar_one())

    def counts(self) -> dict[str, int]:
        """`items` that were added or replaced, items `removed`, `events` (interactions), `users` with interactions."""
        with self._reading() as connection:
            found = {row.name: row.value for row in connection.execute(select(COUNTERS))}
        return {name: found[name] for name in COUNTED if name != "sequence"}

    def ping(self) -> None:
        """Return if the state can be read, else raise as every method does."""
        self.last_sequence()

    def close(self) -> None:
        """Close all connections; a SQLite file then holds everything, without its log."""
        self._engine.dispose()

    # -- transactions --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        if self._file is not None:
            self._file.check()
        with translated(self.name), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A transaction that writes; without a commit it is rolled back."""
        if self._file is not None:
            self._file.check()
        if self._turn is not None and not self._turn.acquire(timeout=PATIENCE):
            raise StateUnavailableError(f"The state {self.name} is written by too many at once; try again.")
        try:
            with translated(self.name), self._writing.connect() as connection:
                yield connection
        finally:
            if self._turn is not None:
                self._turn.release()

    def _count(self, connection: Connection, name: str, number: int) -> int:
        """Add to a counter, whose row is locked until the transaction ends; return its new value."""
        counter = update(COUNTERS).where(COUNTERS.c.name == name).values(value=COUNTERS.c.value + number)
        value = connection.execute(counter.returning(COUNTERS.c.value)).scalar_one_or_none()
        if value is None:
            raise StateBrokenError(f"The state {self.name} lacks its counter {name!r}. Restore it from a backup.")
        return int(value)

    def _earlier(self, connection: Connection, key: str | None, digest: str, sequence: int) -> Receipt | None:
        """The receipt of the call that used this key before; None = there is none, and the key now stands for this call."""
        if key is None:
            return None
        now = _now()
        connection.execute(delete(KEYS).where(KEYS.c.created < now - KEPT_DAYS * 86_400))
        row = {"key": checked(key, "an idempotency key"), "content": digest, "sequence": sequence, "created": now}
        # A call with the same key that runs at the same time is waited for here.
        if self._add_if_new(connection, KEYS, [row]):
            return None
        earlier = connection.execute(select(KEYS).where(KEYS.c.key == key)).one()
        if earlier.content != digest:
            raise KeyReusedError(
                f"The idempotency key {quoted(key)} was used before for other content; nothing was written. Use a new key for "
                "each call, and the same key only to repeat the same call."
            )
        return Receipt(int(earlier.sequence), repeated=True)

    def _add_users(self, connection: Connection, users: Iterable[str]) -> None:
        """Note users that are not known yet. They are sorted, so that every transaction locks them in the same order."""
        rows = [{"user_id": user, "imported": False} for user in sorted(users)]
        self._count(connection, "users", self._add_if_new(connection, USERS, rows))

    def _add_if_new(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add the rows whose primary key is new; return how many those are."""
        if not rows:
            return 0
        result = connection.execute(
            self._insert(table).on_conflict_do_nothing(), rows, execution_options={"preserve_rowcount": True}
        )
        return int(result.rowcount)


def checked(value: str, what: str) -> str:
    """The id or key if every database can store it.

    Raises:
        DataFormatError: it is no text or too long, or has a NUL character or half of a surrogate pair.
    """
    if problem := _problem(value):
        raise DataFormatError(f"{quoted(value)} cannot be {what}: {problem}.")
    return value


def _problem(value: object) -> str | None:
    if not isinstance(value, str):
        return f"it is a {type(value).__name__}, expected text"
    if "\0" in value:
        return f"character {value.index(chr(0)) + 1} is NUL (U+0000), which databases do not store; leave it out"
    try:
        length = len(value.encode())
    except UnicodeEncodeError as error:
        return f"character {error.start + 1} is half of a surrogate pair, which is no character; write the whole one"
    return f"it has {length:,} bytes in UTF-8, at most {LONGEST_ID:,} are possible" if length > LONGEST_ID else None


def _as_json(change: ItemChange) -> str | None:
    """The attributes as they are stored; NUL characters are escaped in it."""
    if change.attributes is None:
        return None
    for name, value in change.attributes.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise DataFormatError(
                f"Attribute {quoted(name)} of item {quoted(change.raw_id)} is a {type(value).__name__} ({quoted(value)}); "
                "expected text or a number."
            )
    try:
        text = json.dumps(dict(change.attributes), ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        problem = "half of a surrogate pair, which is no character; write the whole one"
    except ValueError:
        problem = "a number that is NaN or infinite; leave the attribute out where there is no value"
    else:
        return text
    raise DataFormatError(f"The attributes of item {quoted(change.raw_id)} have {problem}.")


def _moment(event: Event) -> int | None:
    if event.timestamp is not None and not (
        isinstance(event.timestamp, int) and BEFORE_ALL < event.timestamp < LARGEST
    ):
        raise DataFormatError(
            f"The timestamp {quoted(event.timestamp)} of user {quoted(event.user)} is no number of seconds since 1970; "
            "expected an integer of 64 bits."
        )
    return event.timestamp


def _now() -> int:
    return int(time.time())


def _digest(kind: str, content: object) -> str:
    written = json.dumps([kind, content], default=lambda vector: hashlib.sha256(vector).hexdigest())
    return hashlib.sha256(written.encode()).hexdigest()


def _chunks(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    every = iter(values)
    while some := list(itertools.islice(every, size)):
        yield some
