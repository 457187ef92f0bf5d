"""Requests that come together are answered as one batch, in a worker thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from linguarec.serving.problems import Problem

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Batcher(Generic[Asked, Answer]):
    """Gathers requests of an event loop, and has them answered in batches by a thread of its own, one batch at a time.

    What arrives while a batch is answered forms the next one. A request that finds the thread idle waits for `window` seconds
    if the last batch had several requests; a client that asks alone never waits. A request counts as `size` says, so that a
    large one does not make the others wait in its batch.

    Args:
        answer: gives the answer of each request of a batch, or the exception that stands for it.
        size: how much a request counts, at least 1.
        largest: a batch counts as much as this, unless it is one request.
        window: seconds that the first request of a batch waits for others; 0 = none.
        most_waiting: requests that may wait; more are refused.
        seen: is told how many requests each batch has.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Sequence[Answer | Exception]],
        size: Callable[[Asked], int] = lambda asked: 1,
        largest: int = 64,
        window: float = 0.001,
        most_waiting: int = 1_024,
        seen: Callable[[int], object] = lambda requests: None,
    ) -> None:
        self._answer, self._size, self._seen = answer, size, seen
        self._largest, self._window, self._most_waiting = largest, window, most_waiting
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._thread = ThreadPoolExecutor(1, "batch")
        self._task: asyncio.Task[None] | None = None
        self._last = 1  # requests of the last batch

    async def ask(self, asked: Asked) -> Answer:
        """The answer of one request.

        Raises:
            Problem: 503, too many requests wait.
            Exception: the one that stands for the answer.
        """
        if len(self._waiting) >= self._most_waiting:
            raise Problem(
                503,
                "overloaded",
                f"{len(self._waiting):,} requests wait already.",
                mend="Ask again later, or start more workers.",
                headers={"Retry-After": "1"},
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((asked, future))
        if self._task is None:
            self._task = loop.create_task(self._run())
        return await future

    async def close(self) -> None:
        """Answer what waits, and end the thread."""
        while self._task is not None:
            await asyncio.sleep(0.01)
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        if self._window and self._last > 1 and len(self._waiting) < self._largest:
            await asyncio.sleep(self._window)
        while self._waiting:
            batch = self._take()
            self._last = len(batch)
            self._seen(self._last)
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, [asked for asked, _ in batch])
            except Exception as error:  # noqa: BLE001 - each request of the batch gets it
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # whoever asked is gone
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        self._task = None

    def _take(self) -> list[tuple[Asked, asyncio.Future[Answer]]]:
        batch: list[tuple[Asked, asyncio.Future[Answer]]] = []
        size = 0
        while self._waiting and (not batch or size + self._size(self._waiting[0][0]) <= self._largest):
            batch.append(self._waiting.popleft())
            size += self._size(batch[-1][0])
        return batch
