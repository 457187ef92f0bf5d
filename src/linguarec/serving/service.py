"""What the calls of one process share: the run and its state, batches, metrics, and the thread that follows the state."""

import asyncio
import ctypes
import functools
import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from linguarec.errors import LinguarecError
from linguarec.serving.answers import Answer
from linguarec.serving.batching import Batcher
from linguarec.serving.changes import Changed, Removal, Upsert
from linguarec.serving.guard import Guard
from linguarec.serving.live import Live, Reloaded
from linguarec.serving.lookup import Lookup
from linguarec.serving.metrics import Metrics
from linguarec.serving.problems import Problem
from linguarec.serving.schemas import RecommendRequest, SimilarRequest
from linguarec.serving.settings import ServiceSettings

Found = TypeVar("Found")
_THREADS = 4  # for what is neither ranked nor written in batches
_PATH_BYTES = 4_096
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Siblings:
    """Which run the processes of one service serve: a process that reloads says so, and the others follow.

    `reloads`: how many there were. `folder`: of the last one.
    """

    reloads: Any
    folder: Any

    @classmethod
    def of(cls, context: Any, folder: Path) -> "Siblings":
        """For processes of this context."""
        siblings = cls(context.Value(ctypes.c_uint64, 0), context.Array(ctypes.c_char, _PATH_BYTES))
        siblings.folder.value = os.fsencode(folder)
        return siblings

    def tell(self, folder: Path) -> int:
        """Say that this folder is served now; return the number of the reload."""
        with self.reloads.get_lock():
            self.folder.value = os.fsencode(folder)
            self.reloads.value += 1
            return int(self.reloads.value)

    def last(self) -> tuple[int, Path]:
        """The number of the last reload, and its folder."""
        with self.reloads.get_lock():
            return int(self.reloads.value), Path(os.fsdecode(self.folder.value))


class Service:
    """The shared parts. `guard` is set by the application that wraps itself into it."""

    guard: Guard

    def __init__(self, settings: ServiceSettings, live: Live, siblings: Siblings | None = None) -> None:
        self.settings, self.live, self.siblings = settings, live, siblings
        self.metrics = Metrics()
        self.loaded = time.time()
        self.lookup = Lookup()
        self._looked_up = live.served
        self._reloads = 0 if siblings is None else siblings.last()[0]
        self._threads = ThreadPoolExecutor(_THREADS, "call")
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="follow", daemon=True)
        limits = settings.limits
        self.recommending: Batcher[RecommendRequest, Answer] = Batcher(
            functools.partial(live.recommend, history_length=limits.history_length),
            size=lambda asked: asked.asked,
            largest=settings.batch,
            window=settings.window,
            most_waiting=limits.waiting,
            seen=self.metrics.batches.labels("recommend").observe,
        )
        self.comparing: Batcher[SimilarRequest, Answer] = Batcher(
            live.similar, window=0.0, most_waiting=limits.waiting, seen=self.metrics.batches.labels("similar").observe
        )
        self.changing: Batcher[Upsert | Removal, Changed] = Batcher(
            live.change,
            size=lambda asked: len(asked.items) if isinstance(asked, Upsert) else 1,
            largest=500,
            window=settings.window,
            most_waiting=limits.waiting,
            seen=self.metrics.batches.labels("change").observe,
        )

    def start(self) -> None:
        """Begin to follow the state."""
        self._follower.start()

    async def stop(self) -> None:
        """Answer what waits, and close the state."""
        self._stop.set()
        for batcher in (self.recommending, self.comparing, self.changing):
            await batcher.close()
        await asyncio.to_thread(self._follower.join)
        self._threads.shutdown()
        self.live.close()

    async def call(self, function: Callable[..., Found], *arguments: Any) -> Found:
        """The result of a function that runs in another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *arguments))

    def reload(self, folder: Path | None = None, tell: bool = True) -> Reloaded:
        """Serve another run, or the same one opened anew; the old one goes on if that fails.

        Raises:
            Problem: another reload is running.
            LinguarecError: the run cannot be opened.
        """
        try:
            done = self.live.reload(folder)
        except (LinguarecError, Problem) as error:
            self.metrics.reloads.labels("failed").inc()
            log.error("the reload failed, the run %s is served on: %s", self.live.served.run, error)
            raise
        self.loaded = time.time()
        self.metrics.reloads.labels("done").inc()
        if tell and self.siblings is not None:
            self._reloads = self.siblings.tell(self.live.served.folder)
        return done

    def lookup_of_served(self) -> Lookup:
        """The search in the catalogue of the run that is served now."""
        if self._looked_up is not self.live.served:
            self.lookup, self._looked_up = Lookup(), self.live.served
        return self.lookup

    def _follow(self) -> None:
        """Take in what other processes changed, until the service stops."""
        try:
            self.live.warm()
        except LinguarecError as error:
            log.warning("new items need a vector: their texts cannot be encoded here: %s", error)
        # Modules, networks and the catalogue stay until the end: looking through them for garbage would hold requests up
        # for a third of a second, again and again.
        gc.collect()
        gc.freeze()
        failing = ""
        while not self._stop.wait(self.settings.poll):
            try:
                self.live.follow()
                failing = ""
            except LinguarecError as error:
                if str(error) != failing:
                    log.warning("the state cannot be read: %s", error)
                failing = str(error)
            except Exception:
                log.exception("following the state failed")
            if self.siblings is not None:
                number, folder = self.siblings.last()
                if number != self._reloads:
                    self._reloads = number
                    try:
                        self.reload(folder, tell=False)
                    except (LinguarecError, Problem):
                        log.error("this process still serves the run %s", self.live.served.run)
            self._measure()

    def _measure(self) -> None:
        live, metrics = self.live, self.metrics
        metrics.items.set(live.served.present)
        metrics.sequence.set(live.sequence)
        metrics.lag.set(time.monotonic() - live.followed)
        metrics.left_out.set(len(live.left_out))
        metrics.running.set(self.guard.running)


def service_of(request: Request) -> Service:
    """What the calls share."""
    service: Service = request.app.state.service
    return service
