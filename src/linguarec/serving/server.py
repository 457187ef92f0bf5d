"""Runs the application: connections with deadlines, a stop that ends what runs, several processes."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from asyncio import TimerHandle
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from linguarec.errors import LinguarecError, SettingsError
from linguarec.serving.app import create_app
from linguarec.serving.guard import Guard
from linguarec.serving.live import Live
from linguarec.serving.logs import log_as_json
from linguarec.serving.metrics import SHARED_FOLDER
from linguarec.serving.problems import Problem
from linguarec.serving.service import Service, Siblings
from linguarec.serving.settings import Limits, ServiceSettings

_HEADER_BYTES = 64 << 10
_SPARE_FILES = 100  # file descriptors that are not for connections
_REFUSED = 3  # exit code of a process that cannot start, so that it is not started again
_PAUSE = 0.2  # seconds between two looks at the processes
log = logging.getLogger(__name__)


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 over one connection that is closed when its client is too slow, sends too long headers, or is one too many.

    uvicorn alone waits forever for the first request of a connection, and for a client that does not read its answer.
    """

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if there is room."""
        super().connection_made(transport)
        self._in_headers, self._header_bytes = True, 0
        self._deadline: TimerHandle | None = None
        if len(self.connections) > self.limits.connections:
            transport.abort()
        else:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._relax()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what arrives; headers that are not complete get a deadline."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > _HEADER_BYTES:
                self.transport.write(
                    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                )
                self.transport.close()
            else:
                self._expect()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_headers, self._header_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The headers are there; the body has a deadline of its own."""
        self._in_headers = False
        self._relax()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client does not read its answer as fast as it is written."""
        self._expect()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._relax()
        super().resume_writing()

    def _expect(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.seconds, self.transport.abort)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """A server that, told to stop, refuses new requests, ends those that run, and stops; told twice, it stops at once."""

    def __init__(self, config: uvicorn.Config, guard: Guard, service: Service) -> None:
        super().__init__(config)
        self._guard, self._service = guard, service
        self._reloading: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and reload at a SIGHUP."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            with contextlib.suppress(ValueError):  # not in the main thread
                self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        where = ", ".join("{}:{}".format(*each.getsockname()[:2]) for server in self.servers for each in server.sockets)
        log.info(
            "serving", extra={"fields": {"run": self._service.live.served.run, "address": where, "pid": os.getpid()}}
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop."""
        if sig == signal.SIGINT and self._service.siblings is not None:
            return  # Ctrl+C reaches all processes, and the first one ends the others
        if self._guard.stopping:
            self.force_exit = self.should_exit = True
            return
        self._guard.stopping = True
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._end()))

    async def _end(self) -> None:
        deadline = time.monotonic() + self._guard.settings.grace
        while self._guard.running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        self.should_exit = True

    def _reload(self) -> None:
        async def reload() -> None:
            try:
                self._guard.read_tokens()
                await self._service.call(self._service.reload)
            except (LinguarecError, Problem) as error:
                log.error("the reload failed: %s", error)

        self._reloading = self._loop.create_task(reload())


def run(settings: ServiceSettings, live: Live, listening: socket.socket, siblings: Siblings | None = None) -> None:
    """Serve until a signal ends it.

    Raises:
        SettingsError: the file of tokens cannot be read.
    """
    _raise_file_limit(settings.limits.connections)
    app, guard = create_app(settings, live, siblings)
    protocol = type("Protocol", (PatientProtocol,), {"limits": settings.limits})
    config = uvicorn.Config(
        guard,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.grace)),
    )
    Server(config, guard, app.state.service).run([listening])


def _raise_file_limit(connections: int) -> None:
    """Each connection takes a file descriptor."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if now < wanted:
        allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


# -- several processes -------------------------------------------------------------------------------------------------


def run_workers(settings: ServiceSettings, workers: int, listening: socket.socket) -> None:
    """Serve with several processes, which share one socket and one state; one that dies is started again.

    Raises:
        SettingsError: the processes cannot start; their logs say why.
    """
    context = multiprocessing.get_context("spawn")
    siblings = Siblings.of(context, settings.folder.absolute())
    signals: list[int] = []
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, frame: signals.append(number))
    with tempfile.TemporaryDirectory(prefix="linguarec-metrics-") as folder:
        os.environ[SHARED_FOLDER] = folder

        def start() -> Any:
            process = context.Process(target=_work, args=(settings, listening, siblings))
            process.start()
            return process

        processes = [start() for _ in range(workers)]
        log.info("%d processes serve on %s:%d", workers, *listening.getsockname()[:2])
        try:
            while True:
                time.sleep(_PAUSE)
                for number in [signals.pop(0) for _ in range(len(signals))]:
                    if number != signal.SIGHUP:
                        return
                    # The first one opens the run, and tells the others if it can be served.
                    os.kill(processes[0].pid, signal.SIGHUP)
                for place, process in enumerate(processes):
                    if process.is_alive():
                        continue
                    if process.exitcode == _REFUSED:
                        raise SettingsError(["the processes of the service cannot start; the log above says why"])
                    log.error("process %s ended with code %s and is started again", process.pid, process.exitcode)
                    processes[place] = start()
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            for process in processes:
                process.join(settings.grace + 5)
                if process.is_alive():
                    process.kill()
            listening.close()


def _work(settings: ServiceSettings, listening: socket.socket, siblings: Siblings) -> None:
    """One of several processes."""
    log_as_json()
    _, folder = siblings.last()
    try:
        live = Live.open(folder, settings.state, settings.users, settings.approximate)
        run(settings, live, listening, siblings)
    except LinguarecError as error:
        log.error("%s", error)
        sys.exit(_REFUSED)
