"""Keeps a lease alive from a thread that does nothing else."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from app.core.logging import get_logger
from app.db.session import transaction
from app.jobs.leases import Lease, LeaseLostError, renew
from worker.context import WorkerContext
from worker.progress import ProgressBoard

_LOG = get_logger(__name__)


class LeaseKeeper:
    """What the renewals of one attempt have found out.

    Attributes:
        cancel_requested: Set once the owner of the job wants it stopped.
        lost: Set once the row belongs to somebody else.
    """

    def __init__(self, context: WorkerContext, lease: Lease, board: ProgressBoard) -> None:
        self.cancel_requested = threading.Event()
        self.lost = threading.Event()
        self._context = context
        self._lease = lease
        self._board = board
        self._done = threading.Event()
        self._last_contact = time.monotonic()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Renew in the background while the block runs."""
        thread = threading.Thread(target=self._run, name=f"renew-{self._lease.job_id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def disconnected_seconds(self) -> float:
        """Return the time since the database last took a renewal."""
        return time.monotonic() - self._last_contact

    def _run(self) -> None:
        # Jitter keeps the renewals of many jobs from arriving together for ever.
        while not self._done.wait(self._context.settings.renew_seconds * random.uniform(0.75, 1.0)):
            try:
                self._renew()
            except LeaseLostError:
                self.lost.set()
                return
            except SQLAlchemyError as error:
                _LOG.warning("lease not renewed", job_id=self._lease.job_id, error=type(error).__name__)

    def _renew(self) -> None:
        seconds = self._context.settings.lease_seconds
        with transaction(self._context.factory) as session:
            cancel = renew(session, self._lease, lease_seconds=seconds, heartbeat=self._board.heartbeat())
        self._last_contact = time.monotonic()
        if cancel:
            self.cancel_requested.set()
