"""At most one process at a time, by a Postgres advisory lock. A saving, never a guarantee that anything relies on."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

RECONCILE = 0x4E4C4601
COLLECT = 0x4E4C4602


@contextmanager
def try_exclusive(engine: Engine, key: int) -> Iterator[bool]:
    """Yield whether this process got the lock ``key``; it is held by a connection of its own until the block ends."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}))
        try:
            yield taken
        finally:
            if taken:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
