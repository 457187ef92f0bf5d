"""The processes that torchrun started for one command: which of them writes, what each works on, how the writer gets the rest.

    processes = Processes.here()
    made = processes.gathered(map(work, processes.share(parts)))
    if not processes.is_writer:
        return Result.of_later_process()
    for each in made:                                      # in the order of the parts, as one process makes them
        write(each)

Parts are dealt out one by one, and after each round the writer gathers what was made of them. So it never holds more than a
round, the later processes write nothing, and one that has died is noticed at the next round.
"""

import atexit
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar, cast

from linguarec.errors import LostProcessError

LONGEST_WAIT = timedelta(hours=1)  # of one process for another, whose machine may have been lost without a word
Made = TypeVar("Made")
Part = TypeVar("Part")


def is_main_process() -> bool:
    """Whether this process writes files and messages: the only one, or the first that Lightning or torchrun started."""
    # torchrun counts ranks over all machines; Lightning starts processes only on this machine.
    return int(os.environ.get("RANK" if _by_torchrun() else "LOCAL_RANK", 0)) == 0


def started_together() -> int:
    """The number of processes that torchrun started for this command, on all machines; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1)) if _by_torchrun() else 1


def place_on_machine() -> int:
    """The number of this process, from 0, among those that were started together on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ  # schedulers set variables such as RANK, too


@dataclass(frozen=True)
class Processes:
    """This process, `rank`, among `count` that share a command. The first one, rank 0, writes the results.

    All of them must call the same methods in the same order.
    """

    rank: int = 0
    count: int = 1

    @staticmethod
    @functools.cache
    def here() -> "Processes":
        """Those that torchrun started together with this one; the first call connects them and waits for all.

        Raises:
            LostProcessError: another one cannot be reached.
        """
        count = started_together()
        if count == 1:
            return ALONE
        _connect()
        return Processes(int(os.environ["RANK"]), count)

    @property
    def is_writer(self) -> bool:
        """Whether this process writes the results."""
        return self.rank == 0

    @property
    def shard(self) -> tuple[int, int]:
        """(rank, count): this process takes every `count`-th part from `rank` on."""
        return self.rank, self.count

    def share(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts of this process: every `count`-th one, from `rank` on."""
        return islice(parts, self.rank, None, self.count)

    def gathered(self, made: Iterable[Made]) -> Iterator[Made]:
        """What all processes make of their shares: the writer gets it one by one, in the order of the parts.

        The others work on their shares at once, and get nothing.

        Raises:
            LostProcessError: another process has ended before its share was done.
        """
        if self.count == 1:
            return iter(made)
        rounds = self._rounds(iter(made))
        return rounds if self.is_writer else iter(list(rounds))

    def _rounds(self, own: Iterator[Made]) -> Iterator[Made]:
        whole_round = True
        while whole_round:
            of_round = list(islice(own, 1))
            whole_round = self._all(bool(of_round))  # else the parts are used up
            for of_process in self._gather(of_round):
                yield from of_process

    def of_writer(self, make: Callable[[], Made]) -> Made:
        """What the writer makes once all processes have come here, in every process.

        Raises:
            LostProcessError: another process has ended.
        """
        if self.count == 1:
            return make()
        from torch import distributed

        self._all(True)
        found = [make() if self.is_writer else None]
        with _lost_processes(self.count):
            distributed.broadcast_object_list(found, src=0, group=_connect())
        return cast(Made, found[0])

    def _all(self, here: bool) -> bool:
        """Whether it is so in all processes."""
        import torch
        from torch import distributed

        least = torch.tensor(here, dtype=torch.uint8)
        with _lost_processes(self.count):
            distributed.all_reduce(least, distributed.ReduceOp.MIN, group=_connect())
        return bool(least)

    def _gather(self, value: Made) -> list[Made]:
        """In the writer: the values of all processes, by rank; elsewhere an empty list."""
        from torch import distributed

        found: list[Any] | None = [None] * self.count if self.is_writer else None
        with _lost_processes(self.count):
            distributed.gather_object(value, found, dst=0, group=_connect())
        return found or []


ALONE = Processes()


@functools.cache
def _connect() -> Any:
    """The group of all processes, over the processor's memory and the network."""
    from torch import distributed

    with _lost_processes(started_together()):
        if distributed.is_initialized():  # by a training in this process, perhaps for GPUs
            return distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
        distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        # Its threads must have ended before the interpreter does: at times a process aborted at its exit instead.
        atexit.register(_disconnect)
        return distributed.group.WORLD


def _disconnect() -> None:
    from torch import distributed

    _connect.cache_clear()  # it holds the group, and with it the threads
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def _lost_processes(count: int) -> Iterator[None]:
    """Errors of an exchange become errors that name what happened.

    Raises:
        LostProcessError: the exchange failed.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise LostProcessError(
            f"Another one of the {count} processes has ended, or cannot be reached ({reason}). Its own message, or that of "
            "torchrun, says why; mend that and start the command again."
        ) from error
