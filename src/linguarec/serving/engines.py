"""Opens the database of a state: a SQLite file or a PostgreSQL database. A file that is no state is refused and not changed."""

import contextlib
import errno
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from linguarec.errors import SettingsError
from linguarec.screen import visible
from linguarec.serving.schema import APPLICATION_ID, SCHEMA_VERSION, create_or_check, other_version
from linguarec.serving.state_errors import StateBrokenError, StateUnavailableError, translated, translation_of

PATIENCE = 5.0  # seconds to wait for another writer, a free connection, or a server
CHECKED_BYTES = 1 << 30  # SQLite files up to this size are checked for damage when they are opened (2 seconds)
# A replica that hangs within a transaction must not hold the counter's lock for ever, nor a lost machine its connections.
SESSION = {"lock_timeout": "10s", "idle_in_transaction_session_timeout": "30s", "synchronous_commit": "on"}
_CONNECTION = {
    "connect_timeout": int(PATIENCE),
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "client_encoding": "utf8",
}
_MAGIC = b"SQLite format 3\0"
_EXPECTED = "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"


@dataclass(frozen=True)
class Opened:
    """An open state. `name`: what messages call it, without a password; `run`: the run it was made for."""

    engine: Engine
    name: str
    run: str
    file: "StateFile | None" = None


@dataclass(frozen=True)
class StateFile:
    """A SQLite file, known by its device and inode: a file that is deleted or replaced under a running service is noticed.

    SQLite itself would go on writing to the deleted file, and all of it would be lost.
    """

    path: Path
    identity: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> "StateFile":
        """The file that is at this path now."""
        found = path.stat()
        return cls(path, (found.st_dev, found.st_ino))

    def check(self) -> None:
        """Raise a StateUnavailableError unless the file is still in its place."""
        with contextlib.suppress(OSError):
            if StateFile.of(self.path) == self:
                return
        raise StateUnavailableError(
            f"The state {self.path} was deleted or replaced while the service runs; nothing more is written. "
            "Put the file back (with its -wal), or restart the service."
        )


def open_database(url: str, run: str) -> Opened:
    """Open the state at a URL; create it where nothing is yet.

    Args:
        url: sqlite:///FILE, a path without a scheme, or postgresql://USER:PASSWORD@HOST/DATABASE.
        run: fingerprint of the run, kept in a new state.

    Raises:
        SettingsError: the URL is none of these.
        StateUnavailableError: locked, not writable, no such folder, server not reachable.
        StateBrokenError: damaged, of another program, of another schema version.
    """
    if "://" not in url:
        return _open_file(Path(url), run)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # neither may be shown: they can quote a password
        raise SettingsError([f"the address of the state cannot be read; {_EXPECTED}"]) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.query:
            raise SettingsError(["the state must be in a file, so that it outlives the service: sqlite:///FILE"])
        return _open_file(Path(parsed.database), run)
    if backend not in ("postgresql", "postgres"):
        raise SettingsError([f"the state cannot be kept in {visible(backend)!r}; {_EXPECTED}"])
    return _open_server(parsed.set(drivername="postgresql+psycopg"), run)


def _open_server(url: URL, run: str) -> Opened:
    host = url.host or str(url.query.get("host", "localhost"))
    name = visible(f"postgresql://{host}:{url.port or 5432}/{url.database or ''}")
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=10,
        pool_timeout=PATIENCE,
        hide_parameters=True,
        connect_args=_CONNECTION,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.autocommit = True
        for setting, value in SESSION.items():
            connection.execute(f"SET {setting} = '{value}'")
        connection.autocommit = False

    try:
        with translated(name), engine.begin() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
            if encoding != "UTF8":
                raise StateBrokenError(
                    f"The database {name} stores text as {encoding}, which does not know every character; "
                    "create one with: createdb --encoding=UTF8 --template=template0 NAME"
                )
            return Opened(engine, name, create_or_check(connection, name, run))
    except BaseException:
        engine.dispose()
        raise


def _open_file(path: Path, run: str) -> Opened:
    path = path.resolve()
    name = visible(str(path))
    _check_header(path, name)
    try:
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
    except OSError as error:
        raise StateUnavailableError(f"The state {name} cannot be created: {error.strerror}.") from error
    engine = create_engine(
        "sqlite://", creator=lambda: _connect(path), poolclass=QueuePool, pool_timeout=PATIENCE, hide_parameters=True
    )
    # The driver begins transactions late and by its own rules; here they begin when SQLAlchemy says so.
    # A transaction that will write takes its turn before it reads: the wait for the lock is then patient.
    event.listen(engine, "begin", _begin)
    try:
        with translated(name):
            made_for = _create_or_check_file(path, engine, name, run)
        return Opened(engine, name, made_for, StateFile.of(path))
    except BaseException:
        engine.dispose()
        raise


def _check_header(path: Path, name: str) -> None:
    """Refuse what is no state by its first bytes alone; SQLite would change a file by opening it (roll back, write back)."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise StateUnavailableError(
                f"The state {name} cannot be created: there is no folder {visible(str(path.parent))}. Make it first."
            ) from None
        return
    except OSError as error:
        raise StateUnavailableError(f"The state {name} cannot be read: {error.strerror}.") from error
    if not header:
        return  # a process that created it ended before it wrote anything
    if not header.startswith(_MAGIC) or len(header) < 100:
        raise translation_of(sqlite3.SQLITE_NOTADB, name, f"it begins with {header[:16]!r}")
    application, version = int.from_bytes(header[68:72]), int.from_bytes(header[60:64])
    if application != APPLICATION_ID:
        raise StateBrokenError(
            f"{name} is a SQLite file of another program (application id {application:#010x}, of a state "
            f"{APPLICATION_ID:#010x}). Name another file. It was left as it is."
        )
    if version != SCHEMA_VERSION:
        raise other_version(name, version)
    if not os.access(path, os.W_OK):  # SQLite opens it all the same, and fails at the first write
        raise translation_of(sqlite3.SQLITE_READONLY, name, os.strerror(errno.EACCES))


def _check_damage(path: Path, name: str) -> None:
    """Read the whole file; read-only, as closing the last writing connection copies the log into it."""
    with contextlib.closing(_connect(path, "ro")) as connection:
        [(finding,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
    if finding != "ok":
        raise translation_of(sqlite3.SQLITE_CORRUPT, name, str(finding))


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    # rw, not rwc: a file that was deleted meanwhile is not made anew, empty.
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=PATIENCE,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous = FULL")  # the log is on the disk before a commit returns
    connection.execute("PRAGMA fullfsync = ON")  # macOS: and not only in the cache of the disk
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _begin(connection: Connection) -> None:
    """Begin a transaction; one that will write waits for its turn here."""
    database: Any = connection.connection.driver_connection
    if connection.get_execution_options().get("writes"):
        _patiently(database, "BEGIN IMMEDIATE")
    else:
        database.execute("BEGIN")


def _patiently(database: sqlite3.Connection, statement: str) -> list[Any]:
    """Execute a statement that needs a lock; try again every two milliseconds while the file is locked.

    SQLite's own waiting looks ever more rarely, so that another process that writes all the time comes first for seconds; and
    two processes that wait for each other it refuses at once.
    """
    until = time.monotonic() + PATIENCE
    database.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                return database.execute(statement).fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(0.002)
    finally:
        database.execute(f"PRAGMA busy_timeout = {round(PATIENCE * 1_000)}")


def _create_or_check_file(path: Path, engine: Engine, name: str, run: str) -> str:
    """Create the tables, or check them and the file; then switch the file to a write-ahead log, which readers do not block.

    The header names the program and the version before there is a log, which `_check_header` does not read.
    """
    if 0 < path.stat().st_size <= CHECKED_BYTES:
        _check_damage(path, name)
    with engine.execution_options(writes=True).begin() as connection:  # fails at once where the file cannot be written
        if not connection.exec_driver_sql("PRAGMA application_id").scalar_one():
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
        made_for = create_or_check(connection, name, run)
    with contextlib.closing(_connect(path)) as plain:
        [(mode,)] = _patiently(plain, "PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise StateUnavailableError(
            f"The state {name} is on a file system without shared memory (of a network?), which SQLite's write-ahead log "
            "needs. Name a file on a local disk, or keep the state in PostgreSQL."
        )
    return made_for
