"""SQLite files that cannot be used: a sentence that names the file and the mend, and not a byte of it is changed."""

import multiprocessing
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.pool import QueuePool
from state_writers import expected, stored, writing

from linguarec.errors import LinguarecError, SettingsError
from linguarec.serving import engines, state, state_commits
from linguarec.serving.state import Event, ItemChange, StateBrokenError, StateFullError, StateUnavailableError, Store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A state with some content, closed."""
    path = tmp_path / "shop" / "state.db"
    path.parent.mkdir()
    store = Store.open(str(path), "run")
    store.change_items([ItemChange(f"i{number}", {"title": f"item {number} " * 20}) for number in range(500)])
    store.add_events([Event("u", f"i{number}", number) for number in range(500)])
    store.close()
    return path


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are waited for a moment only."""
    monkeypatch.setattr(engines, "PATIENCE", 0.1)
    monkeypatch.setattr(state_commits, "PATIENCE", 0.1)


def refused(file: Path, kind: type[LinguarecError], url: str | None = None) -> str:
    """The message with which a file is refused; it must be left as it is, and no other content may appear beside it."""
    before = file.read_bytes()
    with pytest.raises(kind) as error:
        Store.open(url or str(file), "run")
    assert file.read_bytes() == before
    beside = {path.name: path.stat().st_size for path in file.parent.iterdir() if path != file}
    assert {name for name, size in beside.items() if size} <= {f"{file.name}-shm"}  # the index of an empty log
    assert str(file) in str(error.value)
    return str(error.value)


def holding(file: Path, script: str) -> "subprocess.Popen[str]":
    """Another process that runs SQL on the file and then waits for its input to end."""
    code = f"import sqlite3, sys; c = sqlite3.connect({str(file)!r}, isolation_level=None); {script}; print('held', flush=True)"
    words = [sys.executable, "-c", f"{code}; sys.stdin.read()"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


# -- what is no state -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"x", b"raw_id,title\na,Oil\n" * 50, b"SQLite format 3\0", bytes(5_000), bytes(range(1, 256)) * 20]
)
def test_a_file_that_is_no_sqlite_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "state.db"
    file.write_bytes(content)
    message = refused(file, StateBrokenError)
    assert "damaged, or no SQLite file" in message and "name another file" in message


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_sqlite_file_of_another_program_is_refused(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "state.db"
    other = sqlite3.connect(file)
    other.execute(f"PRAGMA journal_mode = {mode}")
    other.execute("CREATE TABLE linguarec_items (mine)")
    other.execute("INSERT INTO linguarec_items VALUES ('keep')")
    other.commit()
    other.close()
    assert "is a SQLite file of another program" in refused(file, StateBrokenError)


def test_an_open_file_of_another_program_is_not_even_rolled_back(tmp_path: Path) -> None:
    """SQLite would play back the journal of a process that was killed."""
    file, copy = tmp_path / "other.db", tmp_path / "copy" / "other.db"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("CREATE TABLE mine (x)")
    other.execute("PRAGMA cache_size = 1")
    other.execute("BEGIN")
    other.executemany("INSERT INTO mine VALUES (?)", [("x" * 1_000,) for _ in range(200)])
    copy.parent.mkdir()
    for path in (file, tmp_path / "other.db-journal"):
        (copy.parent / path.name).write_bytes(path.read_bytes())
    other.close()
    journal = copy.with_name("other.db-journal").read_bytes()
    assert len(journal) > 512
    with pytest.raises(StateBrokenError, match="of another program"):
        Store.open(str(copy), "run")
    assert copy.with_name("other.db-journal").read_bytes() == journal


@pytest.mark.parametrize("where", ["header", "table"])
def test_a_state_of_another_schema_version_is_refused(file: Path, where: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE linguarec_schema SET version = 7")
        if where == "header":
            connection.execute("PRAGMA user_version = 7")
    connection.close()
    message = refused(file, StateBrokenError)
    assert "has schema version 7; this linguarec reads and writes version 1" in message
    assert "Use the linguarec that wrote it, or name another state." in message


@pytest.mark.parametrize("table", ["linguarec_schema", "linguarec_items", "linguarec_counters"])
def test_a_state_that_lacks_a_table_is_refused(file: Path, table: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(f"DROP TABLE {table}")
    connection.close()
    message = refused(file, StateBrokenError)
    assert ("has schema version none" if table == "linguarec_schema" else f"lacks the tables {table}") in message


def test_a_state_that_lacks_a_counter_is_not_written(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("DELETE FROM linguarec_counters WHERE name = 'sequence'")
    connection.close()
    store = Store.open(str(file), "run")
    with pytest.raises(StateBrokenError, match="lacks its counter 'sequence'"):
        store.change_items([ItemChange("new", {})])
    store.close()


# -- damage ---------------------------------------------------------------------------------------------------------------


def _zeros(content: bytearray) -> None:
    content[3 * 4_096 : 4 * 4_096] = bytes(4_096)


def _noise(content: bytearray) -> None:
    content[5 * 4_096 : 5 * 4_096 + 64] = b"\xa5" * 64


def _cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


def _no_magic(content: bytearray) -> None:
    content[:16] = bytes(16)


@pytest.mark.parametrize("damage", [_zeros, _noise, _cut, _no_magic])
def test_a_damaged_file_is_refused(file: Path, damage: Callable[[bytearray], None]) -> None:
    content = bytearray(file.read_bytes())
    damage(content)
    file.write_bytes(content)
    message = refused(file, StateBrokenError)
    assert "is damaged, or no SQLite file" in message and "restore the file with its -wal from a backup" in message


def test_a_damaged_file_with_a_log_is_left_with_its_log(tmp_path: Path) -> None:
    """The log of a killed process holds what was acknowledged last: it is needed to mend the file."""
    file = tmp_path / "state.db"
    with writing(str(file), [0]) as writer:
        writer.wait_for(8)
    log = tmp_path / "state.db-wal"
    content = bytearray(file.read_bytes())
    _zeros(content)
    file.write_bytes(content)
    before = file.read_bytes(), log.read_bytes()
    assert len(before[1]) > 4_096
    with pytest.raises(StateBrokenError, match="is damaged"):
        Store.open(str(file), "run")
    assert (file.read_bytes(), log.read_bytes()) == before


def test_damage_that_appears_while_the_service_runs_is_named(file: Path) -> None:
    store = Store.open(str(file), "run")
    content = bytearray(file.read_bytes())
    for page in range(2, len(content) // 4_096):
        content[page * 4_096 : page * 4_096 + 100] = b"\xff" * 100
    with file.open("r+b") as opened:
        opened.write(content)
    with pytest.raises(StateBrokenError, match=r"is damaged.*Page \d+: btreeInitPage\(\) returns error"):
        Store.open(str(file), "run")
    with pytest.raises(StateBrokenError, match=r"is damaged.*database disk image is malformed"):
        for number in range(100):
            store.add_events([Event(f"u{number}", "a")])
            store.changes_after(0)
            store.history("u", 500)
    store.close()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_that_is_deleted_or_replaced_while_the_service_runs_is_noticed(file: Path, how: str) -> None:
    """SQLite would acknowledge writes to a file that nobody can open again."""
    store = Store.open(str(file), "run")
    content = file.read_bytes()
    moved = file.rename(file.with_name("moved"))
    if how == "replaced":
        file.write_bytes(content)
    calls: list[Callable[[], Any]] = [
        lambda: store.change_items([ItemChange("a", {})]),
        lambda: store.add_events([Event("u", "a")]),
        lambda: store.history("u", 5),
        store.ping,
        store.counts,
    ]
    for call in calls:
        with pytest.raises(StateUnavailableError, match="was deleted or replaced while the service runs"):
            call()
    assert file.exists() == (how == "replaced")
    moved.rename(file)
    store.ping()
    assert store.change_items([ItemChange("a", {})]).sequence == 501
    store.close()


# -- locks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lock", ["BEGIN EXCLUSIVE", "PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE", "BEGIN IMMEDIATE"]
)
def test_a_file_that_is_locked_is_refused_and_can_be_used_afterwards(file: Path, impatient: None, lock: str) -> None:
    other = holding(file, f"[c.execute(s) for s in {lock.split(';')!r}]")
    before = file.read_bytes()
    with pytest.raises(
        StateUnavailableError, match=f"{file} is locked by another process .*end the process that holds it"
    ):
        Store.open(str(file), "run")
    assert file.read_bytes() == before
    other.communicate("")
    store = Store.open(str(file), "run")
    assert store.counts()["items"] == 500
    other = holding(file, "c.execute('BEGIN IMMEDIATE')")
    with pytest.raises(StateUnavailableError, match="is locked by another process"):
        store.add_events([Event("u", "a")])
    assert len(store.history("u", 1_000)) == 500  # readers are not disturbed
    other.communicate("")
    assert store.add_events([Event("u", "a")]).sequence == 501
    store.close()


@pytest.mark.parametrize("attempt", range(5))
def test_processes_that_start_together_make_one_state(tmp_path: Path, attempt: int) -> None:
    """As the workers of a service do: create it, switch it to a log, write, and be the last to close it."""
    context = multiprocessing.get_context("fork")
    together, answers = context.Barrier(5), context.SimpleQueue()

    def work(number: int) -> None:
        together.wait()
        try:
            for turn in range(2):
                store = Store.open(str(tmp_path / "state.db"), "run")
                store.change_items([ItemChange(f"{number}-{turn}", {})])
                store.close()
            answers.put("written")
        except LinguarecError as error:
            answers.put(str(error))

    processes = [context.Process(target=work, args=(number,)) for number in range(5)]
    for process in processes:
        process.start()
    assert [answers.get() for _ in processes] == ["written"] * 5
    for process in processes:
        process.join()
    store = Store.open(str(tmp_path / "state.db"), "run")
    assert store.counts()["items"] == store.last_sequence() == 10
    store.close()


# -- rights ---------------------------------------------------------------------------------------------------------------


def _open_as_nobody(path: str, answers: Any) -> None:
    if os.geteuid() == 0:
        os.setgid(65_534)
        os.setuid(65_534)
    try:
        Store.open(path, "run")
        answers.put(("opened", ""))
    except LinguarecError as error:
        answers.put((type(error).__name__, str(error)))


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A folder that other users reach; those of pytest are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("what", ["file", "folder", "unreadable", "new"])
def test_a_file_or_folder_that_cannot_be_written_is_refused(anybodys: Path, what: str) -> None:
    """Tried by a user whom rights bind: the tests may run as root."""
    file = anybodys / "shop" / "state.db"
    file.parent.mkdir()
    if what != "new":
        store = Store.open(str(file), "run")
        store.change_items([ItemChange("a", {})])
        store.close()
        file.chmod({"file": 0o444, "folder": 0o666, "unreadable": 0o000}[what])
    before = file.read_bytes() if what != "new" else b""
    file.parent.chmod(0o777 if what == "file" else 0o555)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_open_as_nobody, args=(str(file), answers))
    process.start()
    kind, message = answers.get()
    process.join()
    file.parent.chmod(0o755)
    assert kind == "StateUnavailableError", message
    assert str(file) in message
    found = {"unreadable": "cannot be read: Permission denied", "new": "cannot be created: Permission denied"}
    assert found.get(what, "or its folder cannot be written") in message
    if what == "new":
        assert not file.exists()
    else:
        file.chmod(0o644)
        assert file.read_bytes() == before


def test_a_folder_in_the_place_of_the_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailableError, match="cannot be read: Is a directory"):
        Store.open(str(tmp_path), "run")
    with pytest.raises(StateUnavailableError, match=f"there is no folder {tmp_path / 'none'}. Make it first"):
        Store.open(str(tmp_path / "none" / "state.db"), "run")
    assert list(tmp_path.iterdir()) == []


# -- space ----------------------------------------------------------------------------------------------------------------


def test_a_full_disk_refuses_what_it_cannot_keep_and_goes_on_afterwards(file: Path) -> None:
    """SQLite's own limit of pages takes the part of the disk: the engine answers as on a full one."""
    pages = len(file.read_bytes()) // 4_096
    limit = pages + 20

    def limited(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit}")

    event.listen(QueuePool, "checkout", limited)
    try:
        store = Store.open(str(file), "run")
        written = 0
        with pytest.raises(StateFullError, match=f"{file} has no space left on its disk .*make space"):
            while True:
                store.change_items([ItemChange(f"n{written}", {"title": "x" * 2_000})], key=f"k{written}")
                written += 1
        assert 0 < written < 50
        assert store.counts()["items"] == 500 + written
        with pytest.raises(StateFullError):
            store.import_histories([("v", [f"i{number}" for number in range(20_000)])])
        assert store.history("v", 5) == []
        limit = 1_000_000
        assert not store.change_items([ItemChange(f"n{written}", {"title": "x" * 2_000})], key=f"k{written}").repeated
        assert store.counts()["items"] == store.last_sequence() == 501 + written
        assert store.counts()["events"] == 500
        store.close()
    finally:
        event.remove(QueuePool, "checkout", limited)


def _fill(path: str, answers: Any) -> None:
    store = Store.open(path, "run")
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    done = 0
    try:
        while True:
            store.change_items([ItemChange(f"n{done}", {"title": "x" * 2_000})])
            done += 1
    except StateUnavailableError as error:
        answers.put((done, str(error)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.change_items([ItemChange("after", {})])
    answers.put((store.counts()["items"], ""))
    store.close()


def test_a_limit_of_file_sizes_is_told_and_work_goes_on_without_it(file: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_fill, args=(str(file), answers))
    process.start()
    done, message = answers.get()
    items, _ = answers.get()
    process.join()
    assert process.exitcode == 0
    assert "a quota or a limit of file sizes is reached" in message and str(file) in message
    assert done > 5
    assert items == 500 + done + 1
    store = Store.open(str(file), "run")
    assert store.counts()["items"] == items
    assert [change.raw_id for change in store.changes_after(500)] == [
        *(f"n{number}" for number in range(done)),
        "after",
    ]
    store.close()


# -- addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("sqlite://", "must be in a file"),
        ("sqlite:///:memory:", "must be in a file"),
        ("sqlite:///x.db?mode=ro", "must be in a file"),
        ("mysql://u:s3cret@h/db", "cannot be kept in 'mysql'; expected sqlite:///FILE or postgresql://"),
        ("://s3cret@x", "cannot be read; expected sqlite:///FILE"),
        ("postgresql://u:s3cret@h:port/db", "cannot be read"),
    ],
)
def test_other_addresses_are_refused_without_showing_them(url: str, found: str) -> None:
    with pytest.raises(SettingsError) as error:
        Store.open(url, "run")
    assert found in str(error.value)
    assert "s3cret" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "what?.db", "c#d.db", "\u00e9\U0001f600.db", "a&mode=ro.db"])
def test_files_with_odd_names(tmp_path: Path, name: str) -> None:
    store = Store.open(str(tmp_path / name), "run")
    store.add_events([Event("u", "a")])
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}-wal", f"{name}-shm"}
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_empty_file_and_a_link_to_a_state_are_states(tmp_path: Path, file: Path) -> None:
    (tmp_path / "empty.db").touch()
    store = Store.open(f"sqlite:///{tmp_path / 'empty.db'}", "run")
    store.add_events([Event("u", "a")])
    store.close()
    (tmp_path / "link.db").symlink_to(file)
    linked = Store.open(str(tmp_path / "link.db"), "run")
    assert linked.counts()["items"] == 500
    linked.close()


def test_every_connection_writes_through_to_the_disk(file: Path) -> None:
    store = Store.open(str(file), "run")
    connections = [store._engine.connect() for _ in range(3)]
    for connection in connections:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA fullfsync").scalar_one() == 1
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        connection.close()
    store.close()


def test_a_history_is_read_from_the_end_of_an_index(file: Path) -> None:
    """Whatever the length of the history: no scan, and nothing to sort."""
    store = Store.open(str(file), "run")
    with store._engine.connect() as connection:
        asked = state._HISTORY.format(0)
        plan = connection.execute(text(f"EXPLAIN QUERY PLAN {asked}"), {"user_0": "u", "most": 5}).all()
    assert [step.detail for step in plan] == ["SEARCH linguarec_events USING INDEX linguarec_events_order (user_id=?)"]
    store.close()


def test_a_state_that_is_closed_is_one_file_with_everything(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with writing(str(file), [0]) as writer:
        writer.wait_for(8)
        done = writer.kill()
    assert (tmp_path / "state.db-wal").stat().st_size > 0
    store = Store.open(str(file), "run")
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["state.db"]
    copy = Path(file.rename(tmp_path / "copy.db"))
    store = Store.open(str(copy), "run")
    assert stored(store, 0) in (expected(0, done[0]), expected(0, done[0] + 1))
    store.close()
