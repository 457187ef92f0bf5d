"""PostgreSQL that stops, hangs, refuses or is another one's: a sentence without the password, and on it goes afterwards."""

import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from postgres import PASSWORD, Postgres
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from state_writers import expected, operation, stored, write

from linguarec.errors import LinguarecError
from linguarec.serving import engines
from linguarec.serving.state import Event, ItemChange, StateBrokenError, StateFullError, StateUnavailableError, Store
from linguarec.serving.state_errors import translation


def schema_of(url: str) -> str:
    """The schema that a test has to itself."""
    return str(make_url(url).query["options"]).split("=")[1]


def refused(call: Callable[[], object], kind: type[LinguarecError]) -> str:
    """The message of a refusal; neither it nor the traceback behind it shows the password."""
    with pytest.raises(kind) as error:
        call()
    assert PASSWORD not in "".join(traceback.format_exception(error.value))
    return str(error.value)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_the_server_is_stopped_and_started_under_load(
    postgres: Postgres, postgres_url: str, how: signal.Signals
) -> None:
    """SIGINT ends its sessions; SIGQUIT is as a crash, after which it recovers. Calls are repeated with their keys."""
    store = Store.open(postgres_url, "run")
    stopping = threading.Event()
    refusals = [0] * 4
    progress = [0] * 4

    def run(thread: int) -> int:
        while not stopping.is_set():
            try:
                write(store, thread, progress[thread])
            except StateUnavailableError as error:
                refusals[thread] += 1
                assert "postgresql://127.0.0.1" in str(error) and PASSWORD not in str(error)
                time.sleep(0.01)
            else:
                progress[thread] += 1
        return progress[thread]

    def wait_for(counters: list[int], more: int) -> None:
        """Wait until every thread has counted so many more."""
        goals, until = [value + more for value in counters], time.monotonic() + 30
        while any(value < goal for value, goal in zip(counters, goals, strict=True)):
            assert time.monotonic() < until
            time.sleep(0.005)

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(run, thread) for thread in range(4)]
        try:
            for _ in range(3):
                wait_for(progress, 3)
                postgres.stop(how)
                wait_for(refusals, 3)
                assert "cannot be reached or used" in refused(store.ping, StateUnavailableError)
                assert "cannot be reached or used" in refused(
                    lambda: Store.open(postgres_url, "run"), StateUnavailableError
                )
                postgres.start()
        finally:
            if postgres.server is None:
                postgres.start()
            wait_for(progress, 1)
            stopping.set()
        done = [ended.result() for ended in running]
    for thread in range(4):
        assert stored(store, thread) == expected(thread, done[thread])
    assert store.counts()["events"] == sum(
        len(operation(thread, n)[1]) for thread in range(4) for n in range(done[thread])
    )
    store.close()


def test_sessions_that_the_server_ended_are_replaced(postgres: Postgres, postgres_url: str) -> None:
    store = Store.open(postgres_url, "run")
    store.ping()
    with postgres.session("postgres") as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert store.add_events([Event("u", "a")]).sequence == 1
    store.close()


def test_a_replica_that_hangs_within_a_transaction_does_not_stop_the_others_for_ever(
    postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines.SESSION, "lock_timeout", "100ms")
    monkeypatch.setitem(engines.SESSION, "idle_in_transaction_session_timeout", "1s")
    store, hanging = Store.open(postgres_url, "run"), Store.open(postgres_url, "run")
    # The one that hung is told so when it goes on.
    with pytest.raises(DBAPIError, match="idle-in-transaction"), hanging._engine.connect() as connection:
        hanging._count(connection, "sequence", 1)
        message = refused(lambda: store.change_items([ItemChange("a", {})]), StateUnavailableError)
        assert "is locked by another session" in message
        assert store.changes_after(0) == []
        until = time.monotonic() + 20
        while True:
            try:
                receipt = store.change_items([ItemChange("a", {})])
                break
            except StateUnavailableError:
                assert time.monotonic() < until
    assert receipt.sequence == 1  # the number of the hanging transaction was given back
    hanging.close()
    store.close()


def test_a_server_that_is_read_only_is_named(postgres: Postgres, postgres_url: str) -> None:
    Store.open(postgres_url, "run").close()
    read_only = postgres_url + "%20-cdefault_transaction_read_only%3Don"
    store = Store.open(read_only, "run")  # it can be read
    message = refused(lambda: store.add_events([Event("u", "a")]), StateUnavailableError)
    assert "is read-only" in message and "name the primary server" in message
    assert store.history("u", 5) == []
    store.close()


def test_refusals_at_the_door_do_not_show_the_password(postgres: Postgres) -> None:
    wrong = postgres.url("postgres", password="wr0ng-pass")
    message = refused(lambda: Store.open(wrong, "run"), StateUnavailableError)
    assert "password authentication failed" in message and "wr0ng-pass" not in message
    assert f"postgresql://127.0.0.1:{postgres.port}/postgres" in message
    message = refused(lambda: Store.open(postgres.url("nowhere"), "run"), StateUnavailableError)
    assert 'database "nowhere" does not exist' in message
    within = f"postgresql://shop@127.0.0.1:{postgres.port}/nowhere?password={PASSWORD}&application_name=x"
    message = refused(lambda: Store.open(within, "run"), StateUnavailableError)
    assert f"postgresql://127.0.0.1:{postgres.port}/nowhere" in message and "?" not in message
    message = refused(lambda: Store.open(postgres.url("postgres") + "?no_such_option=1", "run"), StateUnavailableError)
    assert "no_such_option" in message
    closed = f"postgresql://shop:{PASSWORD.replace('/', '%2F')}@127.0.0.1:1/shop"
    assert "cannot be reached" in refused(lambda: Store.open(closed, "run"), StateUnavailableError)


def test_what_a_store_shows_of_itself_has_no_password(postgres_url: str) -> None:
    store = Store.open(postgres_url, "run")
    assert "postgresql://127.0.0.1" in repr(store) and "s3cret" not in repr(store) + store.name + str(vars(store))
    store.close()


def test_a_database_that_does_not_know_every_character_is_refused(postgres: Postgres) -> None:
    url = postgres.create("latin", "ENCODING 'LATIN1' TEMPLATE template0")
    message = refused(lambda: Store.open(url, "run"), StateBrokenError)
    assert "stores text as LATIN1" in message and "createdb --encoding=UTF8" in message


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_way_of_writing_the_scheme_is_understood(postgres_url: str, scheme: str) -> None:
    store = Store.open(scheme + postgres_url.removeprefix("postgresql"), "run")
    assert store.counts()["items"] == 0
    store.close()


def test_a_state_of_another_schema_version_is_left_as_it_is(postgres: Postgres, postgres_url: str) -> None:
    store = Store.open(postgres_url, "run")
    store.change_items([ItemChange("a", {})])
    store.close()
    with postgres.session("postgres") as session:
        session.execute(f"SET search_path TO {schema_of(postgres_url)}")
        session.execute("UPDATE linguarec_schema SET version = 7")
        message = refused(lambda: Store.open(postgres_url, "run"), StateBrokenError)
        assert "has schema version 7; this linguarec reads and writes version 1" in message
        assert session.execute("SELECT version FROM linguarec_schema").fetchall() == [(7,)]
        assert session.execute("SELECT raw_id FROM linguarec_items").fetchall() == [("a",)]
        session.execute("UPDATE linguarec_schema SET version = 1")
        session.execute("DROP TABLE linguarec_keys")
    assert "lacks the tables linguarec_keys" in refused(lambda: Store.open(postgres_url, "run"), StateBrokenError)


def test_tables_of_others_are_left_alone(postgres: Postgres, postgres_url: str) -> None:
    with postgres.session("postgres") as session:
        session.execute(f"SET search_path TO {schema_of(postgres_url)}")
        session.execute("CREATE TABLE linguarec_items (mine text)")
        session.execute("CREATE TABLE orders (mine text)")
        message = refused(lambda: Store.open(postgres_url, "run"), StateBrokenError)
        assert "has schema version none" in message
        session.execute("DROP TABLE linguarec_items")
        store = Store.open(postgres_url, "run")
        store.change_items([ItemChange("a", {})])
        store.close()
        tables = session.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
    names = sorted(name for (name,) in tables)
    assert names == [f"linguarec_{part}" for part in ("counters", "events", "items", "keys", "schema", "users")] + [
        "orders"
    ]


@pytest.mark.parametrize(
    ("error", "kind", "found"),
    [
        (psycopg.errors.DiskFull, StateFullError, "has no space left on its disk"),
        (psycopg.errors.TooManyConnections, StateUnavailableError, "has no resources left"),
        (psycopg.errors.DataCorrupted, StateBrokenError, "is damaged"),
        (psycopg.errors.InsufficientPrivilege, StateUnavailableError, "refuses the user a right"),
        (psycopg.errors.AdminShutdown, StateUnavailableError, "cannot be reached or used at present"),
    ],
)
def test_what_the_server_says_is_told_by_its_kind(
    error: type[psycopg.Error], kind: type[Exception], found: str
) -> None:
    translated = translation(error("as the server\x1b says it"), "postgresql://h/db")
    assert type(translated) is kind
    assert f"The state postgresql://h/db {found}" in str(translated) and "as the server\\x1b says it" in str(translated)


def test_every_session_is_durable_and_waits_for_nothing_for_ever(postgres_url: str) -> None:
    store = Store.open(postgres_url, "run")
    sessions = [store._engine.connect() for _ in range(3)]
    for session in sessions:
        settings = {"lock_timeout": "10s", "idle_in_transaction_session_timeout": "30s", "synchronous_commit": "on"}
        assert {name: session.exec_driver_sql(f"SHOW {name}").scalar_one() for name in settings} == settings
        parameters = session.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        assert parameters["connect_timeout"] == "5" and parameters["tcp_user_timeout"] == "10000"
        session.close()
    store.close()
