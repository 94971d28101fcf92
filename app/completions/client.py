"""Asks models behind endpoints: concurrently, within a budget, from store where the question was asked before."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from typing import Self, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from app.completions.asking import Answer, Asker, AskingError
from app.completions.configuration import Endpoints, Target, UnknownEndpointError
from app.completions.ledger import Ledger, Spending, question_key
from app.core.logging import get_logger
from worker.training.events import CompletionAnswer, CompletionRequest

T = TypeVar("T")
LOOK_UP_SECONDS = 0.1
CLOSE_SECONDS = 5.0
_LEDGER_THREADS = 4
_LOG = get_logger(__name__)


class EndpointClient:
    """Implements ``Completions`` for one job or one call of the API; a context manager.

    Requests run on an event loop in a thread of their own, which starts with the first question. Budget and failures
    are counted from the client's construction on; a ledger adds what earlier attempts of the job have spent.

    Args:
        endpoints: The operator's.
        ledger: Store of answers and spending; None keeps nothing.
    """

    def __init__(self, endpoints: Endpoints, ledger: Ledger | None = None) -> None:
        self._endpoints = endpoints
        self._ledger = ledger
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False
        # Everything below belongs to the loop's thread.
        self._desks: dict[str, _Desk] = {}
        self._asked: dict[str, asyncio.Task[CompletionAnswer]] = {}
        self._answering: set[asyncio.Task[object]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def complete(
        self, requests: Sequence[CompletionRequest], on_done: Callable[[int, int], None]
    ) -> list[CompletionAnswer]:
        """Return one answer per request, in their order; see ``Completions``.

        ``on_done`` is also called every tenth of a second while nothing arrives. When it raises, requests that are in
        flight are still paid for and their answers stored; the rest is not asked once the client is closed.
        """
        futures = [self.submit(request) for request in requests]
        waiting = set(futures)
        try:
            while waiting:
                _, waiting = concurrent.futures.wait(waiting, LOOK_UP_SECONDS, concurrent.futures.FIRST_COMPLETED)
                on_done(len(futures) - len(waiting), len(futures))
        finally:
            for future in waiting:
                future.cancel()
        return [future.result() for future in futures]

    def submit(self, request: CompletionRequest) -> Future[CompletionAnswer]:
        """Start to ask; the future fails with nothing but cancellation.

        Raises:
            RuntimeError: The client is closed.
        """
        loop = self._running_loop()
        return asyncio.run_coroutine_threadsafe(self._answer(request), loop)

    def close(self) -> None:
        """Break off everything that is open and drop the connections. Waits a few seconds at most."""
        with self._starting:
            self._is_closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_SECONDS)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._is_closed:
                raise RuntimeError("the client is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_default_executor(ThreadPoolExecutor(_LEDGER_THREADS, thread_name_prefix="ledger"))
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name="endpoints", daemon=True)
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        try:
            loop.run_until_complete(self._wind_up())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    async def _wind_up(self) -> None:
        # Tasks that a connection has started are left to it: cancelled before their first step, they would be lost.
        own = [*self._asked.values(), *self._answering]
        for task in own:
            task.cancel()
        await asyncio.gather(*own, return_exceptions=True)
        await asyncio.sleep(0)  # questions that came in last find the client closed
        async with AsyncExitStack() as stack:
            for desk in self._desks.values():
                stack.push_async_callback(desk.asker.client.aclose)

    async def _answer(self, request: CompletionRequest) -> CompletionAnswer:
        if self._is_closed:
            raise asyncio.CancelledError
        if (current := asyncio.current_task()) is not None:
            self._answering.add(current)
            current.add_done_callback(self._answering.discard)
        try:
            target = self._endpoints.find(request.model)
        except UnknownEndpointError as error:
            return CompletionAnswer(request.id, code="unknown_endpoint", error=str(error))
        key = question_key(target, request)
        # Equal questions share one answer, as they would through the store had the first been a little earlier.
        task = self._asked.get(key)
        if task is None:
            task = asyncio.create_task(self._obtain(key, target, request))
            self._asked[key] = task
            task.add_done_callback(lambda _: self._asked.pop(key, None))
        shared = await asyncio.shield(task)
        return CompletionAnswer(request.id, shared.text, shared.code, shared.error, shared.tokens)

    async def _obtain(self, key: str, target: Target, request: CompletionRequest) -> CompletionAnswer:
        try:
            stored = await self._consult(lambda ledger: ledger.recall(key, target.name))
            answer = stored or await self._ask(key, target, request)
        except AskingError as error:
            return CompletionAnswer(request.id, code=error.code, error=error.message)
        except Exception:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            _LOG.exception("asking broke", endpoint=target.name)
            message = f"The endpoint '{target.name}' could not be asked."
            return CompletionAnswer(request.id, code="unreachable", error=message)
        return CompletionAnswer(request.id, text=answer.text, tokens=answer.tokens)

    async def _ask(self, key: str, target: Target, request: CompletionRequest) -> Answer:
        desk = await self._desk(target)
        async with desk.places:
            desk.check()
            attempts = 0
            answer: Answer | None = None

            def note_attempt() -> None:
                nonlocal attempts
                desk.book(requests=1)
                attempts += 1

            try:
                answer = await desk.asker.ask(target.model, request, note_attempt)
                desk.book(tokens=answer.tokens)
                desk.note_success()
            except AskingError as error:
                desk.note_failure(error)
                raise
            finally:
                if attempts:
                    await asyncio.shield(self._settle(key, target, attempts, answer))
        return answer

    async def _settle(self, key: str, target: Target, attempts: int, answer: Answer | None) -> None:
        await self._consult(lambda ledger: ledger.settle(key, target.name, attempts, answer))

    async def _desk(self, target: Target) -> "_Desk":
        if target.name not in self._desks:
            spent = await self._consult(lambda ledger: ledger.spent(target.name)) or Spending()
            if target.name not in self._desks:  # another question may have been quicker
                self._desks[target.name] = _Desk(Asker.open(target), spent.requests, spent.tokens)
        return self._desks[target.name]

    async def _consult(self, use: Callable[[Ledger], T]) -> T | None:
        """Use the ledger in a thread; a database that is away costs money at worst, so nothing stops for it."""
        ledger = self._ledger
        if ledger is None:
            return None
        try:
            return await asyncio.to_thread(use, ledger)
        except SQLAlchemyError as error:
            _LOG.warning("ledger not used", error=type(error).__name__)
            return None


class _Desk:
    """One endpoint as this client uses it: places, budget, and how it has behaved so far."""

    def __init__(self, asker: Asker, requests: int, tokens: int) -> None:
        self.asker = asker
        self.places = asyncio.Semaphore(asker.endpoint.concurrency)
        self._requests = requests
        self._tokens = tokens
        self._failures = 0
        self._verdict: AskingError | None = None

    def check(self) -> None:
        """Raise what every further question would end with."""
        if self._verdict is not None:
            raise self._verdict
        self._check_budget()

    def book(self, *, requests: int = 0, tokens: int = 0) -> None:
        """Count what is about to be sent, or was charged; raise when there is no budget for another request."""
        if requests:
            self._check_budget()
        self._requests += requests
        self._tokens += tokens

    def note_success(self) -> None:
        """Trust the endpoint again."""
        self._failures = 0

    def note_failure(self, error: AskingError) -> None:
        """Ask no more once all questions would fail, or so many in a row have that they most likely would."""
        if error.code == "budget_exhausted":
            return
        self._failures += 1
        if error.is_hopeless:
            self._verdict = error
        elif self._failures >= self.asker.endpoint.max_failures:
            message = f"{error.message} It is not asked any more after {self._failures} failures in a row."
            self._verdict = AskingError(error.code, message)

    def _check_budget(self) -> None:
        endpoint = self.asker.endpoint
        for used, most, unit in (
            (self._requests, endpoint.max_requests, "requests"),
            (self._tokens, endpoint.max_tokens, "tokens"),
        ):
            if used >= most:
                message = f"The budget of {most} {unit} a job at the endpoint '{self.asker.name}' is used up."
                raise AskingError("budget_exhausted", message)
