"""A connection of the pool that the event loop watches, by libpq's interface instead of the driver's.

It is lent like any other, so limits, time-outs and options of the pool hold. Given back it is dropped, for it holds
what was prepared on it.
"""

import asyncio
from collections.abc import Callable

import psycopg
from psycopg import pq
from sqlalchemy import Engine, PoolProxiedConnection

Prepare = Callable[[pq.abc.PGconn], pq.abc.PGresult]


async def lend(engine: Engine, prepare: Prepare) -> PoolProxiedConnection:
    """Return a connection after ``prepare`` has succeeded on it, in another thread.

    Raises:
        SQLAlchemyError: No connection could be had.
        psycopg.Error: The database refused.
    """
    return await asyncio.to_thread(_lend, engine, prepare)


def check(result: pq.abc.PGresult, wanted: pq.ExecStatus) -> None:
    """Raise psycopg.OperationalError unless ``result`` has the status that is ``wanted``."""
    if result.status != wanted:
        raise psycopg.OperationalError(result.get_error_message())


def drop(lent: PoolProxiedConnection) -> None:
    """Give a connection back that nobody is to use again."""
    lent.invalidate()
    lent.close()


class WatchedConnection:
    """Base of what is done with such a connection; ``_take`` is called when something has come from the server.

    After any failure it is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, lent: PoolProxiedConnection) -> None:
        self.is_closed = False
        self._loop = loop
        self._lent = lent
        self._libpq = _libpq(lent)
        self._socket = self._libpq.socket
        loop.add_reader(self._socket, self._read)

    def close(self, error: BaseException) -> None:
        """Give the connection back; ``error`` is what those hear who wait for it."""
        if self.is_closed:
            return
        self.is_closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        drop(self._lent)
        self._tell(error)

    def _read(self) -> None:
        try:
            self._libpq.consume_input()
            self._take()
        except psycopg.Error as error:  # the server may end the connection at any time
            self.close(error)

    def _take(self) -> None:
        raise NotImplementedError

    def _tell(self, error: BaseException) -> None:
        raise NotImplementedError


def _lend(engine: Engine, prepare: Prepare) -> PoolProxiedConnection:
    lent = engine.raw_connection()
    try:
        libpq = _libpq(lent)
        check(prepare(libpq), pq.ExecStatus.COMMAND_OK)
        libpq.nonblocking = 1
    except BaseException:
        drop(lent)
        raise
    return lent


def _libpq(lent: PoolProxiedConnection) -> pq.abc.PGconn:
    connection = lent.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection.pgconn
