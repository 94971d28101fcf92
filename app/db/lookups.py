"""Values by key, asked from the event loop itself: no other thread, no session and no cursor in between.

A question through a thread spends most of its time on two threads that hand the interpreter to each other. Here the
loop writes to the connection's socket and is called when there is an answer.
"""

import asyncio
from collections.abc import Mapping, Sequence

import psycopg
from psycopg import pq
from sqlalchemy import Engine, PoolProxiedConnection

from app.db.batching import Queue
from app.db.watched_connection import WatchedConnection, check, lend

_Found = Mapping[bytes | None, bytes | None]

_NAME = b"lookup"
_PATIENCE_SECONDS = 5.0


class Lookups:
    """Answers one event loop by one statement, over one connection of the pool.

    Questions that come while the database answers share the next statement. Each is sent after it was asked, so it sees
    every commit that came before. The connection is opened by the first question, and anew by the next after a failure.

    Args:
        engine: Its pool lends the connection.
        statement: Takes keys as one text, joined by commas, as ``$1``; returns rows of key and value, both texts.
    """

    def __init__(self, engine: Engine, statement: str) -> None:
        self._engine = engine
        self._statement = statement.encode()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: Queue[str, bytes | None] = Queue(lambda loop, keys: loop.create_task(self._ask(loop, keys)))
        self._connection: _Asking | None = None

    def open(self) -> None:
        """Serve the running event loop from here on."""
        self._loop = asyncio.get_running_loop()

    @property
    def is_open(self) -> bool:
        """Whether the running event loop is the one that is served."""
        return self._loop is asyncio.get_running_loop()

    async def get(self, key: str) -> bytes | None:
        """Return the value of ``key``, which holds no comma, or None; only while ``is_open``.

        Raises:
            SQLAlchemyError: No connection could be had.
            psycopg.Error: The database refused, went away, or took longer than five seconds.
        """
        assert self._loop is not None
        return await self._queue.add(self._loop, key)

    def close(self) -> None:
        """Give the connection back; a question that is under way fails."""
        self._loop = None
        if self._connection is not None:
            self._connection.close(psycopg.OperationalError("closed while a question was under way"))

    async def _ask(self, loop: asyncio.AbstractEventLoop, keys: Sequence[str]) -> list[bytes | Exception | None]:
        if self._connection is None or self._connection.is_closed:
            self._connection = _Asking(loop, await lend(self._engine, self._prepare))
            if not self.is_open:
                self.close()
        found = await self._connection.ask(",".join(dict.fromkeys(keys)).encode())
        return [found.get(key.encode()) for key in keys]

    def _prepare(self, libpq: pq.abc.PGconn) -> pq.abc.PGresult:
        return libpq.prepare(_NAME, self._statement)


class _Asking(WatchedConnection):
    """One question at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lent: PoolProxiedConnection) -> None:
        super().__init__(loop, lent)
        self._results: list[pq.abc.PGresult] = []
        self._answer: asyncio.Future[_Found] | None = None

    async def ask(self, keys: bytes) -> _Found:
        """Return the values that were found. Raises psycopg.Error."""
        answer: asyncio.Future[_Found] = self._loop.create_future()
        self._answer = answer
        patience = self._loop.call_later(_PATIENCE_SECONDS, self.close, psycopg.OperationalError("no answer in time"))
        try:
            self._libpq.send_query_prepared(_NAME, [keys])
            self._write()
            return await answer
        except BaseException as error:
            self.close(error)
            raise
        finally:
            patience.cancel()

    def _write(self) -> None:
        """Send what libpq holds; the rest of it once the socket takes more."""
        if self._libpq.flush():
            self._loop.add_writer(self._socket, self._go_on_writing)

    def _go_on_writing(self) -> None:
        try:
            if not self._libpq.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self.close(error)

    def _take(self) -> None:
        while not self._libpq.is_busy():
            result = self._libpq.get_result()
            if result is None:
                self._finish()
                return
            self._results.append(result)

    def _finish(self) -> None:
        results, self._results = self._results, []
        if self._answer is None or self._answer.done():
            return
        [result] = results
        check(result, pq.ExecStatus.TUPLES_OK)
        self._answer.set_result({result.get_value(row, 0): result.get_value(row, 1) for row in range(result.ntuples)})

    def _tell(self, error: BaseException) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
