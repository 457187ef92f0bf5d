"""Errors of the state, and the errors of SQLite and PostgreSQL translated into them.

`StateUnavailableError` passes: the same call succeeds once the cause is gone. `StateBrokenError` stays until somebody mends or
replaces the state. Nothing is written in either case.
"""

import contextlib
import sqlite3
from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from linguarec.errors import StateError
from linguarec.screen import visible


class KeyReusedError(StateError):
    """An idempotency key was used before, for other content; nothing was written."""


class StateUnavailableError(StateError):
    """The state cannot be read or written at present (locked, read-only, server stopped); it can once the cause is gone."""


class StateFullError(StateUnavailableError):
    """There is no space left for the state; what was acknowledged before is kept."""


class StateBrokenError(StateError):
    """The state is damaged, of another program or of another schema version; it was not changed."""


_LOCKED = (
    "is locked by another process",
    "end the process that holds it (a backup, a shell, another service), or wait for it",
)
_READ_ONLY = (
    "or its folder cannot be written",
    "make both writable for this user, or name another file; SQLite also writes NAME-wal and NAME-shm beside it",
)
_FULL = ("has no space left on its disk", "make space; the service then goes on")
_DISK = (
    "cannot be read or written: the disk reports an error, or a quota or a limit of file sizes is reached",
    "make space or look at the disk; the service then goes on",
)
_DAMAGED = (
    "is damaged, or no SQLite file",
    "stop the service and restore the file with its -wal from a backup, or name another file; it was left as it is",
)
_SQLITE = {
    sqlite3.SQLITE_BUSY: (StateUnavailableError, *_LOCKED),
    sqlite3.SQLITE_LOCKED: (StateUnavailableError, *_LOCKED),
    sqlite3.SQLITE_PROTOCOL: (StateUnavailableError, *_LOCKED),
    sqlite3.SQLITE_READONLY: (StateUnavailableError, *_READ_ONLY),
    sqlite3.SQLITE_PERM: (StateUnavailableError, *_READ_ONLY),
    sqlite3.SQLITE_CANTOPEN: (StateUnavailableError, *_READ_ONLY),
    sqlite3.SQLITE_FULL: (StateFullError, *_FULL),
    sqlite3.SQLITE_IOERR: (StateUnavailableError, *_DISK),
    sqlite3.SQLITE_CORRUPT: (StateBrokenError, *_DAMAGED),
    sqlite3.SQLITE_NOTADB: (StateBrokenError, *_DAMAGED),
}
# By the beginning of the SQLSTATE (PostgreSQL, appendix A of its manual).
_POSTGRESQL = {
    "53100": (StateFullError, "has no space left on its disk", "make space there; the service then goes on"),
    "53": (StateUnavailableError, "has no resources left", "raise its limits, or wait"),
    "55P03": (StateUnavailableError, "is locked by another session", "wait, or end the session that holds the lock"),
    "25006": (StateUnavailableError, "is read-only", "name the primary server, or end its read-only mode"),
    "28": (StateUnavailableError, "refuses the user or the password", "mend the address, or pg_hba.conf"),
    "3D000": (StateUnavailableError, "does not have this database", "create it: createdb NAME"),
    "42501": (StateUnavailableError, "refuses the user a right", "grant it: the user needs CREATE on the schema"),
    "XX001": (StateBrokenError, "is damaged", "restore the database from a backup"),
    "XX002": (StateBrokenError, "is damaged", "restore the database from a backup"),
    "42P01": (StateBrokenError, "lacks a table of the state", "restore the database, or name another"),
    "42703": (StateBrokenError, "has other columns than the state's", "restore the database, or name another"),
}


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Raise errors of the database as those of this module; `name` says which state, without its password."""
    try:
        yield
    except PoolTimeoutError as error:
        raise StateUnavailableError(f"The state {name} answers too slowly: all its connections are in use.") from error
    except DBAPIError as error:
        raise translation(error.orig or error, name) from error
    except sqlite3.Error as error:
        raise translation(error, name) from error
    except SQLAlchemyError as error:
        raise StateUnavailableError(f"The state {name} cannot be used: {visible(str(error))}.") from error


def translation(error: BaseException, name: str) -> StateError:
    """The error of this module that stands for one of a database driver."""
    said = visible(" ".join(str(error).split()))
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
        kind = _SQLITE.get(code & 0xFF)
        if kind is None and "no such" in said:
            return StateBrokenError(
                f"The state {name} lacks a table or a column ({said}). Restore it from a backup, or name another file."
            )
    else:
        state = getattr(error, "sqlstate", None) or ""
        kind = next((kind for start, kind in _POSTGRESQL.items() if state.startswith(start)), None)
    if kind is None:
        return StateUnavailableError(f"The state {name} cannot be reached or used at present: {said}.")
    return _error(kind, name, said)


def translation_of(code: int, name: str, said: str) -> StateError:
    """The error that stands for a result code of SQLite."""
    return _error(_SQLITE[code], name, visible(said))


def _error(kind: tuple[type[StateError], str, str], name: str, said: str) -> StateError:
    error_class, found, mend = kind
    return error_class(f"The state {name} {found} ({said}). To mend it: {mend}.")
