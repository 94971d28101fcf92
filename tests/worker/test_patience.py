from collections.abc import Callable

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.db.session import SessionFactory
from worker import patience


def fail_first(times: int, error: Exception) -> Callable[[Session], int]:
    calls: list[int] = []

    def write(session: Session) -> int:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    return write


def test_transient_errors_are_waited_out(session_factory: SessionFactory) -> None:
    error = OperationalError("select", {}, Exception("server closed the connection"))
    assert patience.commit(session_factory, fail_first(2, error), give_up=lambda: False) == 3


def test_lasting_errors_are_raised_at_once(session_factory: SessionFactory) -> None:
    write = fail_first(1, DataError("select", {}, Exception("no such number")))
    with pytest.raises(DataError):
        patience.commit(session_factory, write, give_up=lambda: False)


def test_waiting_ends_when_it_is_given_up(session_factory: SessionFactory) -> None:
    error = OperationalError("select", {}, Exception("away"))
    with pytest.raises(patience.GaveUpError):
        patience.commit(session_factory, fail_first(9, error), give_up=lambda: True)


def test_unreachable_server_is_transient() -> None:
    nowhere = sessionmaker(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    with pytest.raises(patience.GaveUpError):
        patience.commit(nowhere, lambda session: session.execute(text("SELECT 1")), give_up=lambda: True)
