"""Engine and sessions. Code commits explicitly, before it answers; nothing commits on the way out."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker

from app.core.settings import Settings

SessionFactory = sessionmaker[Session]


def build_engine(settings: Settings) -> Engine:
    """Return a pooled psycopg engine whose statements, locks and idle transactions have time limits (milliseconds)."""
    url = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql+psycopg")
    return create_engine(
        url,
        pool_size=settings.database_pool_size,
        max_overflow=0,  # a connection beyond the pool is closed after use; to open one costs more than any request
        pool_pre_ping=True,
        pool_timeout=5,
        json_deserializer=msgspec.json.decode,
        connect_args={
            "connect_timeout": 5,
            "options": "-c statement_timeout=30000 -c lock_timeout=10000 -c timezone=UTC"
            # A frozen process must not keep row locks for longer than it keeps its jobs.
            f" -c idle_in_transaction_session_timeout={round(max(1.0, settings.lease_seconds) * 1000)}",
        },
    )


def build_session_factory(engine: Engine) -> SessionFactory:
    """Return a factory of sessions whose objects stay readable after commit."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def transaction(factory: SessionFactory) -> Iterator[Session]:
    """Yield a session; commit on success, roll back on error, close always. Keep it short: no network inside."""
    with factory() as session, session.begin():
        yield session
