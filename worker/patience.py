"""Transactions that wait for the database to come back instead of losing what they carry."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app.core.logging import get_logger
from app.db.session import SessionFactory, transaction

T = TypeVar("T")
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 30.0
_LOG = get_logger(__name__)


class GaveUpError(Exception):
    """Database or store stayed away longer than the caller was willing to wait."""


def commit(factory: SessionFactory, write: Callable[[Session], T], *, give_up: Callable[[], bool]) -> T:
    """Run ``write`` in a transaction until it is committed; return what it returned.

    After a lost reply ``write`` runs again although it had been committed: it must notice that by itself.

    Raises:
        GaveUpError: ``give_up`` said so between two tries.
    """
    for wait in waits(give_up):
        try:
            with transaction(factory) as session:
                return write(session)
        except SQLAlchemyError as error:
            if not is_transient(error):
                raise
            _LOG.warning("database did not answer", error=type(error).__name__, next_try_seconds=wait)
    raise GaveUpError


def waits(give_up: Callable[[], bool]) -> Iterator[float]:
    """Yield the seconds that will pass after each try, doubling; end once ``give_up`` says so.

    The pause happens when the next value is asked for.
    """
    wait = FIRST_WAIT_SECONDS
    while True:
        yield wait
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            if give_up():
                return
            time.sleep(min(0.1, wait))
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def is_transient(error: SQLAlchemyError) -> bool:
    """Return whether the same statement may work once the database is back or a lock is free."""
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated
