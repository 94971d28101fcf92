"""Work that is asked for at the same time goes to the database together."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Key = TypeVar("Key")
Value = TypeVar("Value")
Work = Callable[[Sequence[Item]], Sequence[Outcome | Exception]]
Start = Callable[[asyncio.AbstractEventLoop, Sequence[Item]], asyncio.Future[Sequence[Outcome | Exception]]]
Load = Callable[[Sequence[Key]], Mapping[Key, Value]]

_MOST_ITEMS = 100
_LEAST_PAUSE_SECONDS = 0.002
_MOST_PAUSES = 5


class Batches(Generic[Item, Outcome]):
    """Whoever asks while a batch is under way shares the next one.

    A batch starts after everybody who shares it has asked, so nobody sees a state older than the own question.
    Alone, nobody is waited for; behind a batch of several, the next one collects for two milliseconds.

    Args:
        work: Called in a thread, by one batch at a time, with up to a hundred items; returns an outcome for each, in
            their order. An exception is an outcome, too: it is raised for its item alone.
        name: Of the thread.
    """

    def __init__(self, work: Work[Item, Outcome], *, name: str) -> None:
        self._work = work
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, Queue[Item, Outcome]] = WeakKeyDictionary()

    async def add(self, item: Item) -> Outcome:
        """Return what became of ``item``. Raises what ``work`` raises, for everybody of its batch."""
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = Queue(self._start, pauses=_MOST_PAUSES)
        return await queue.add(loop, item)

    def close(self) -> None:
        """End the thread; a batch that is under way is finished."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _start(
        self, loop: asyncio.AbstractEventLoop, items: Sequence[Item]
    ) -> asyncio.Future[Sequence[Outcome | Exception]]:
        return loop.run_in_executor(self._executor, self._work, items)


class BatchedReads(Generic[Key, Value]):
    """Values by key, read in batches.

    Args:
        load: Called in a thread with up to a hundred keys; keys without a value are left out of its answer.
    """

    def __init__(self, load: Load[Key, Value]) -> None:
        self._load = load
        self._batches: Batches[Key, Value | None] = Batches(self._read, name="batched-reads")

    async def get(self, key: Key) -> Value | None:
        """Return the value of ``key``, or None. Raises what ``load`` raises, for everybody of its batch."""
        return await self._batches.add(key)

    def close(self) -> None:
        """End the thread."""
        self._batches.close()

    def _read(self, keys: Sequence[Key]) -> list[Value | Exception | None]:
        found = self._load(list(dict.fromkeys(keys)))
        return [found.get(key) for key in keys]


class Queue(Generic[Item, Outcome]):
    """What one event loop waits for; one batch at a time is under way.

    Args:
        start: Starts the work of up to a hundred items; its future gives an outcome for each, in their order.
        pauses: How often a batch that follows one of several waits for more to come, each time for a tenth of the time
            that the last one took, two milliseconds at least.
    """

    def __init__(self, start: Start[Item, Outcome], *, pauses: int = 0) -> None:
        self._work = start
        self._pauses = pauses
        self._waiting: list[tuple[Item, asyncio.Future[Outcome]]] = []
        self._is_busy = False

    def add(self, loop: asyncio.AbstractEventLoop, item: Item) -> asyncio.Future[Outcome]:
        """Return the outcome of ``item``, to be awaited in ``loop``, which is running."""
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((item, future))
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._start, loop)  # whoever is served in this turn of the loop comes along
        return future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[:_MOST_ITEMS], self._waiting[_MOST_ITEMS:]
        if not batch:
            self._is_busy = False
            return
        running = self._work(loop, [item for item, _ in batch])
        started, futures = loop.time(), [future for _, future in batch]
        running.add_done_callback(lambda done: self._finish(loop, started, futures, done))

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        started: float,
        futures: Sequence[asyncio.Future[Outcome]],
        done: asyncio.Future[Sequence[Outcome | Exception]],
    ) -> None:
        for future, outcome in zip(futures, _outcomes(done, len(futures)), strict=True):
            if future.done():
                continue  # who asked has gone away
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if len(futures) > 1:
            took = loop.time() - started
            self._collect(loop, max(_LEAST_PAUSE_SECONDS, took / 10), self._pauses)
        else:
            self._start(loop)

    def _collect(self, loop: asyncio.AbstractEventLoop, pause: float, left: int, known: int = -1) -> None:
        """Start once nobody new has come for a ``pause`` (seconds), or no pauses are ``left``."""
        if left == 0 or len(self._waiting) == known:
            self._start(loop)
        else:
            loop.call_later(pause, self._collect, loop, pause, left - 1, len(self._waiting))


def _outcomes(done: asyncio.Future[Sequence[Any]], count: int) -> Sequence[Any]:
    """Return what became of each item; a batch that failed or was cut off by ``close`` has failed for every one."""
    if done.cancelled():
        return [ConnectionAbortedError("closed while work was waiting")] * count
    error = done.exception()
    return done.result() if error is None else [error] * count
