"""At most one process at a time, by a Postgres advisory lock. A saving, never a guarantee that anything relies on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine, text

RECONCILE = 0x4E4C4601
COLLECT = 0x4E4C4602


@dataclass
class Turn:
    """This process's turns at work that one process at a time shall do.

    A holder of the lock may be frozen or cut off, its connection open for hours: who has been refused for
    ``patience_seconds`` goes to work without the lock.

    Attributes:
        engine: Connections to hold the lock on.
        key: Of the advisory lock.
        patience_seconds: Longest time of refusals.
    """

    engine: Engine
    key: int
    patience_seconds: float
    _refused_since: float | None = field(default=None, init=False)

    @contextmanager
    def take(self) -> Iterator[bool]:
        """Yield whether it is this process's turn; the lock is held by a connection of its own until the block ends."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            taken = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": self.key}))
            try:
                yield taken or self._has_waited_enough()
            finally:
                if taken:
                    self._refused_since = None
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": self.key})

    def _has_waited_enough(self) -> bool:
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
            return False
        return now - self._refused_since >= self.patience_seconds
