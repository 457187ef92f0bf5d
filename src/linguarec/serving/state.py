"""The durable state of a service: changes of the catalogue, users' interactions, idempotency keys.

Nothing is acknowledged before it is on the disk: a call that returns has committed its transaction, and a process that is
killed at any moment leaves whole calls behind. Several processes may use one state; they follow each other by `changes_after`.
"""

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from linguarec.errors import quoted
from linguarec.serving.engines import Opened, open_database
from linguarec.serving.schema import ABOUT, COUNTED, COUNTERS, EVENTS, ITEMS, KEYS, USERS
from linguarec.serving.state_commits import GroupCommit, Work
from linguarec.serving.state_errors import (
    KeyReusedError,
    StateBrokenError,
    StateFullError,
    StateUnavailableError,
    translated,
)
from linguarec.serving.state_rows import (
    SMALLEST,
    Event,
    ItemChange,
    Receipt,
    changed_item,
    checked,
    digest,
    event_row,
    item_row,
    problem_of,
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
FORGOTTEN_EVERY = 3_600  # seconds between two looks for older ones
_AT_ONCE = 1_000  # values of one statement
_USERS_AT_ONCE = 5_000  # of one transaction of an import
# One look into the index a user: a window function over all of them would read the whole history of each.
_HISTORY = (
    "SELECT user_id, raw_id, moment, number FROM linguarec_events WHERE user_id = :user_{} "
    "ORDER BY moment DESC, number DESC LIMIT :most"
)
_HISTORIES_AT_ONCE = 200  # SQLite joins at most 500 queries
Value = TypeVar("Value")
Result = TypeVar("Result")


class Store:
    """An open state. Thread-safe; several stores, in several processes, may be open on one state.

    Every method raises StateUnavailableError while the database cannot be reached, is locked, full or read-only, and works
    again afterwards; StateBrokenError if it is damaged.
    """

    def __init__(self, opened: Opened) -> None:
        self._engine = opened.engine
        self._file = opened.file
        self._run = opened.run
        self.name = opened.name  # for messages: without a password
        self._forget_next = 0
        self._insert = sqlite.insert if opened.engine.dialect.name == "sqlite" else postgresql.insert
        self._commits = GroupCommit(opened.engine.execution_options(writes=True), opened.name, _lock_writers)

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
        self._write(lambda connection: connection.execute(update(ABOUT).values(run=run)))
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
        _check_key(key)
        rows = [item_row(change) for change in newest.values()]
        stands_for = digest("items", content or [[*row.values()] for row in rows])

        def work(connection: Connection) -> Receipt:
            if earlier := self._earlier(connection, key, stands_for):
                return earlier
            last = self._count(connection, "sequence", len(rows))
            for number, row in enumerate(rows, start=last - len(rows) + 1):
                row["sequence"] = number
            before = {False: 0, True: 0}
            for ids in _chunks(newest, _AT_ONCE):
                removed = ITEMS.c.attributes.is_(None)
                counted = select(removed, func.count()).where(ITEMS.c.raw_id.in_(ids)).group_by(removed)
                for was_removed, number in connection.execute(counted):
                    before[bool(was_removed)] += number
            statement = self._insert(ITEMS)
            new = {name: statement.excluded[name] for name in ("attributes", "vector", "sequence")}
            if rows:
                connection.execute(statement.on_conflict_do_update(index_elements=["raw_id"], set_=new), rows)
            removals = sum(row["attributes"] is None for row in rows)
            self._count(connection, "items", len(rows) - removals - before[False])
            self._count(connection, "removed", removals - before[True])
            return self._acknowledged(connection, key, stands_for, last)

        return self._write(work)

    def add_events(self, events: Sequence[Event], key: str | None = None) -> Receipt:
        """Append interactions, in one transaction; `Receipt.sequence` counts interactions.

        Raises:
            DataFormatError: an id or a timestamp that cannot be stored; nothing was written.
            KeyReusedError: the key was used for other content; nothing was written.
        """
        _check_key(key)
        rows = [event_row(event) for event in events]
        stands_for = digest("events", [[*row.values()] for row in rows])

        def work(connection: Connection) -> Receipt:
            if earlier := self._earlier(connection, key, stands_for):
                return earlier
            now = _now()
            last = self._count(connection, "events", len(rows))
            for number, row in enumerate(rows, start=last - len(rows) + 1):
                row["number"] = number
                row["moment"] = now if row["moment"] is None else row["moment"]
            self._add_users(connection, {row["user_id"] for row in rows})
            if rows:
                connection.execute(insert(EVENTS), rows)
            return self._acknowledged(connection, key, stands_for, last)

        return self._write(work)

    def import_histories(self, users: Iterable[tuple[str, Sequence[str]]]) -> int:
        """Histories from training data; they come before all interactions of `add_events`.

        A user whose history was imported before, or stands earlier in `users`, is left out: a repeated import, or one that goes
        on after it was interrupted, adds nothing twice.

        Returns:
            The number of users whose histories were added.

        Raises:
            DataFormatError: an id that cannot be stored.
        """
        return sum(self._import(dict(reversed(some))) for some in _chunks(users, _USERS_AT_ONCE))

    def _import(self, users: dict[str, Sequence[str]]) -> int:
        histories = {
            checked(user, "a user id"): [checked(raw_id, "an item id") for raw_id in items]
            for user, items in users.items()
        }

        def work(connection: Connection) -> int:
            for some in _chunks(users, _AT_ONCE):
                there = select(USERS.c.user_id).where(USERS.c.imported, USERS.c.user_id.in_(some))
                for user in connection.execute(there).scalars():
                    del histories[user]
            if not histories:
                return 0
            self._add_users(connection, histories)
            mark = update(USERS).where(USERS.c.user_id == bindparam("user")).values(imported=True)
            connection.execute(mark, [{"user": user} for user in histories])
            flat = [(user, raw_id) for user, items in histories.items() for raw_id in items]
            first = self._count(connection, "events", len(flat)) - len(flat) + 1
            rows = [
                {"number": number, "user_id": user, "raw_id": raw_id, "moment": SMALLEST}
                for number, (user, raw_id) in enumerate(flat, start=first)
            ]
            if rows:
                connection.execute(insert(EVENTS), rows)
            return len(histories)

        return self._write(work)

    # -- reading -------------------------------------------------------------------------------------------------------

    def changes_after(self, sequence: int, limit: int = 10_000) -> list[ItemChange]:
        """The newest change of each item that has a greater number, ascending by number, at most `limit`."""
        chosen = select(ITEMS).where(ITEMS.c.sequence > sequence).order_by(ITEMS.c.sequence).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(chosen).all()
        return [changed_item(row.raw_id, row.attributes, row.vector, row.sequence) for row in rows]

    def history(self, user: str, limit: int) -> list[str]:
        """The last `limit` items of a user, oldest first: by timestamp, then as they came. Unknown users have none."""
        return self.histories([user], limit)[user]

    def histories(self, users: Sequence[str], limit: int) -> dict[str, list[str]]:
        """`history` of several users, by user."""
        found: dict[str, list[str]] = {user: [] for user in users}
        with self._reading() as connection:
            for some in _chunks((user for user in found if not problem_of(user)), _HISTORIES_AT_ONCE):
                parts = (f"SELECT * FROM ({_HISTORY.format(number)}) AS of_{number}" for number in range(len(some)))
                names = {f"user_{number}": user for number, user in enumerate(some)}
                rows = connection.execute(text(" UNION ALL ".join(parts)), {**names, "most": limit}).all()
                for user, raw_id, _, _ in sorted(rows, key=lambda row: (row.moment, row.number)):
                    found[user].append(raw_id)
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

    def _write(self, work: Work[Result]) -> Result:
        if self._file is not None:
            self._file.check()
        return self._commits.run(work)

    def _count(self, connection: Connection, name: str, number: int) -> int:
        """Add to a counter; return its new value."""
        counter = update(COUNTERS).where(COUNTERS.c.name == name).values(value=COUNTERS.c.value + number)
        value = connection.execute(counter.returning(COUNTERS.c.value)).scalar_one_or_none()
        if value is None:
            raise StateBrokenError(f"The state {self.name} lacks its counter {name!r}. Restore it from a backup.")
        return int(value)

    def _earlier(self, connection: Connection, key: str | None, content: str) -> Receipt | None:
        """The receipt of the call that used this key before; None = there is none."""
        if key is None:
            return None
        if (now := _now()) >= self._forget_next:
            connection.execute(delete(KEYS).where(KEYS.c.created < now - KEPT_DAYS * 86_400))
            self._forget_next = now + FORGOTTEN_EVERY
        earlier = connection.execute(select(KEYS).where(KEYS.c.key == key)).one_or_none()
        if earlier is None:
            return None
        if earlier.content != content:
            raise KeyReusedError(
                f"The idempotency key {quoted(key)} was used before for other content; nothing was written. Use a new key for "
                "each call, and the same key only to repeat the same call."
            )
        return Receipt(int(earlier.sequence), repeated=True)

    def _acknowledged(self, connection: Connection, key: str | None, content: str, sequence: int) -> Receipt:
        """The receipt of a call, which its key stands for from now on."""
        if key is not None:
            row = {"key": key, "content": content, "sequence": sequence, "created": _now()}
            connection.execute(insert(KEYS), row)
        return Receipt(sequence)

    def _add_users(self, connection: Connection, users: Iterable[str]) -> None:
        """Note users that are not known yet."""
        rows = [{"user_id": user, "imported": False} for user in users]
        if rows:
            statement = self._insert(USERS).on_conflict_do_nothing()
            result = connection.execute(statement, rows, execution_options={"preserve_rowcount": True})
            if result.rowcount:
                self._count(connection, "users", result.rowcount)


def _lock_writers(connection: Connection) -> None:
    """Let no other process write until the transaction ends: PostgreSQL by a row, SQLite has locked the file already."""
    connection.execute(select(COUNTERS.c.value).where(COUNTERS.c.name == "sequence").with_for_update())


def _check_key(key: str | None) -> None:
    if key is not None:
        checked(key, "an idempotency key")


def _now() -> int:
    return int(time.time())


def _chunks(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    every = iter(values)
    while some := list(itertools.islice(every, size)):
        yield some
