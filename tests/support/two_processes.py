"""Two processes that take one step together: a test file starts itself as a script, once for each of them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def made_by_two(script: str, folder: Path, words: Sequence[str] = (), timeout: int = 300) -> list[Any]:
    """What each of two processes stored, by rank: `script` is started with `words`, the folder and the rank.

    Args:
        script: a file whose main part calls `join`, works, and calls `leave`.
        folder: an empty folder, in which they meet.
        words: arguments before the folder and the rank.
        timeout: seconds for each.
    """
    command = [sys.executable, script, *words, str(folder)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # they import what the tests import
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, env=env) for rank in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=timeout)
        assert process.returncode == 0, errors.decode()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def join(folder: str, rank: int) -> None:
    """In a process: meet the other one."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)


def leave(folder: str, rank: int, made: Any) -> None:
    """In a process: store what it made, and part."""
    torch.save(made, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
