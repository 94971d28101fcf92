"""What the database announces by NOTIFY, handed to those who wait for it in the event loop."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import pq
from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import SQLAlchemyError

from app.core.logging import get_logger
from app.db.watched_connection import WatchedConnection, lend

_LOG = get_logger(__name__)
_RETRY_SECONDS = 5.0


class Notices:
    """Listens to one channel for one event loop, over one connection of the pool that the first waiter opens.

    A notice says that there may be news, nothing else. Whenever the connection is made anew everybody is woken, for
    something may have been missed.

    Args:
        engine: Its pool lends the connection.
        channel: Name of the channel, a plain SQL name.
    """

    def __init__(self, engine: Engine, channel: str) -> None:
        self._engine = engine
        self._channel = channel
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._listening: asyncio.Task[None] | None = None
        self._connection: _Listening | None = None
        self._is_closed = False

    @contextmanager
    def news_of(self, name: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever a notice with the payload ``name`` has come; the caller clears it."""
        event = asyncio.Event()
        self._waiting[name].add(event)
        if self._listening is None or self._listening.done():
            self._listening = asyncio.get_running_loop().create_task(self._listen())
        try:
            yield event
        finally:
            self._waiting[name].discard(event)
            if not self._waiting[name]:
                del self._waiting[name]

    def close(self) -> None:
        """Give the connection back; nobody is woken any more."""
        self._is_closed = True
        if self._connection is not None:
            self._connection.close(psycopg.OperationalError("closed"))

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_closed:
            try:
                self._connection = _Listening(loop, await lend(self._engine, self._prepare), self._wake)
            except (SQLAlchemyError, psycopg.Error) as error:
                _LOG.warning("cannot listen to the database", error=type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if self._is_closed:
                self.close()
            for name in self._waiting:
                self._wake(name)
            cause = await self._connection.ended
            _LOG.info("listening to the database ended", error=type(cause).__name__)

    def _prepare(self, libpq: pq.abc.PGconn) -> pq.abc.PGresult:
        return libpq.exec_(f"LISTEN {self._channel}".encode())

    def _wake(self, name: str) -> None:
        for event in self._waiting.get(name, ()):
            event.set()


class _Listening(WatchedConnection):
    """Calls ``hear`` with the payload of every notice."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, lent: PoolProxiedConnection, hear: Callable[[str], None]
    ) -> None:
        super().__init__(loop, lent)
        self.ended: asyncio.Future[BaseException] = loop.create_future()
        self._hear = hear

    def _take(self) -> None:
        while (notice := self._libpq.notifies()) is not None:
            self._hear(notice.extra.decode())

    def _tell(self, error: BaseException) -> None:
        self.ended.set_result(error)
