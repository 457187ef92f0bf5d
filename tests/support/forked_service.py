"""`linguarec serve` in processes that start fast: each is forked from one that has imported everything already."""

import contextlib
import importlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
from forking import ForkServer, run_command, say_to
from service import Service, wait_until


class Forks(ForkServer):
    """A process that forks services; use it as a context manager."""

    def __init__(self) -> None:
        super().__init__(__file__)

    def start(self, words: list[str], said: Path) -> int:
        """Fork a process that runs the command `words` and writes what it says to `said`; its id."""
        return int(self.ask([words, str(said)]))


class ForkedService(Service):
    """A `Service` whose process is forked."""

    def __init__(self, forks: Forks, run: Path, state: str | Path, *flags: str) -> None:
        super().__init__(run, state, *flags)
        self.forks, self.pid = forks, 0
        self.said = self.log.with_suffix(".said")

    def start(self) -> "ForkedService":
        """See `Service`."""
        self.said.unlink(missing_ok=True)
        self.pid = self.forks.start([*self.words, "--port", str(self.port)], self.said)

        def address() -> Any:
            return re.search(r"http://([\d.]+):(\d+)", self.said.read_text()) if self.said.exists() else None

        wait_until(lambda: bool(address()) or not self._runs())
        assert address(), self.said.read_text()
        self.host, self.port = address()[1], int(address()[2])
        self.client = httpx.Client(base_url=f"http://{self.host}:{self.port}", timeout=60)
        wait_until(lambda: not self._runs() or self._answers())
        assert self._runs(), self.said.read_text()
        return self

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it by a signal; 0."""
        self.client.close()
        os.kill(self.pid, how)
        wait_until(lambda: not self._runs())
        return 0

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _runs(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


def _serve_forks() -> None:
    for name in ("cli", "commands.serve", "serving.live", "serving.server"):
        importlib.import_module(f"linguarec.{name}")

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who ends is forgotten at once
    for line in sys.stdin:
        words, said = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            say_to(Path(said))
            run_command(words)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve_forks()
