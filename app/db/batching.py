"""Reads that are asked for at the same time go to the database as one statement."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

Key = TypeVar("Key")
Value = TypeVar("Value")
Load = Callable[[Sequence[Key]], Mapping[Key, Value]]

_MOST_KEYS = 100
_PAUSE_SECONDS = 0.002


class BatchedReads(Generic[Key, Value]):
    """Values by key; whoever asks while a statement is under way shares the next one.

    A statement starts after everybody who shares it has asked, so nobody sees a state older than the own question.
    Alone, a reader waits for nobody; behind a batch of several, the next one collects for two milliseconds.

    Args:
        load: Called in a thread with up to a hundred keys; keys without a value are left out of its answer.
    """

    def __init__(self, load: Load[Key, Value]) -> None:
        self._load = load
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="batched-reads")
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue[Key, Value]] = WeakKeyDictionary()

    async def get(self, key: Key) -> Value | None:
        """Return the value of ``key``, or None. Raises what ``load`` raises, for everybody of its batch."""
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue(self._load, self._executor)
        return await queue.add(loop, key)

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class _Queue(Generic[Key, Value]):
    """What one event loop waits for."""

    def __init__(self, load: Load[Key, Value], executor: ThreadPoolExecutor) -> None:
        self._load = load
        self._executor = executor
        self._waiting: list[tuple[Key, asyncio.Future[Value | None]]] = []
        self._is_busy = False

    def add(self, loop: asyncio.AbstractEventLoop, key: Key) -> asyncio.Future[Value | None]:
        future: asyncio.Future[Value | None] = loop.create_future()
        self._waiting.append((key, future))
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._start, loop)  # whoever is served in this turn of the loop comes along
        return future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[:_MOST_KEYS], self._waiting[_MOST_KEYS:]
        if not batch:
            self._is_busy = False
            return
        running = loop.run_in_executor(self._executor, self._load, list(dict.fromkeys(key for key, _ in batch)))
        running.add_done_callback(lambda done: self._finish(loop, batch, done))

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: Sequence[tuple[Key, asyncio.Future[Value | None]]],
        done: asyncio.Future[Mapping[Key, Value]],
    ) -> None:
        error = None if done.cancelled() else done.exception()
        for key, future in batch:
            if future.done():
                continue  # who asked has gone away
            if done.cancelled():
                future.cancel()
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result().get(key))
        if len(batch) > 1:
            loop.call_later(_PAUSE_SECONDS, self._start, loop)
        else:
            self._start(loop)
