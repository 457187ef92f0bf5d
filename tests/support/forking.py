"""Commands of linguarec in processes that start fast: each is forked from one that has imported everything already.

A script that forks is started by `ForkServer` and answers each line of its input by a line of output, both JSON. In the child
it calls `say_to`, and at the end `run_command`.
"""

import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn, Self


class ForkServer:
    """The process of a script that forks; use it as a context manager."""

    def __init__(self, script: str) -> None:
        self.script = script

    def __enter__(self) -> Self:
        settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, self.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def ask(self, request: Any) -> Any:
        """The answer of the script to a request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def say_to(file: Path) -> None:
    """In the child: its input is empty, and what it says goes to the end of a file."""
    said = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, handle in ((0, nothing), (1, said), (2, said)):
        os.dup2(handle, stream)


def run_command(words: list[str]) -> NoReturn:
    """Run a command, or a script with its arguments, and leave without the interpreter's clearing up, which takes long."""
    from linguarec.cli import main

    code = 1
    try:
        if words[0].endswith(".py"):
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
            code = 0
        else:
            main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
