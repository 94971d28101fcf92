"""The loop that makes promises good: reaps silent attempts, repeats lost hints, prunes checkpoints.

It runs in every API and worker process; an advisory lock lets one round run at a time, and every step is safe
without it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from app.core.settings import Settings
from app.db.session import SessionFactory, build_engine, build_session_factory, transaction
from app.jobs import checkpoints, dispatch, lifecycle
from app.queue import JobQueue

ADVISORY_LOCK = 0x4E4C4654  # "NLFT"
_logger = logging.getLogger(__name__)


@dataclass
class Reconciler:
    """What one process needs for its rounds.

    Attributes:
        settings: Periods and allowances.
        engine: For the advisory lock, which must live on one connection.
        factory: Sessions of the single steps.
        queue: Where repeated hints go.
        reap_after: Monotonic time before which nobody is reaped: after losing the database this process cannot know
            who was kept from renewing.
    """

    settings: Settings
    engine: Engine
    factory: SessionFactory
    queue: JobQueue
    reap_after: float = 0.0

    def run_round(self) -> None:
        """Do one round, or nothing when another process is at it or the database is away."""
        try:
            with _only_one(self.engine) as mine:
                if mine:
                    self._reap()
                    self._repeat_hints()
                    self._prune()
        except SQLAlchemyError as error:
            self.reap_after = time.monotonic() + self.settings.lease_seconds
            _logger.warning("the reconcile round was cut short: %s", type(error).__name__)

    def _reap(self) -> None:
        if time.monotonic() < self.reap_after:
            return
        policy = lifecycle.RetryPolicy.from_settings(self.settings)
        with transaction(self.factory) as session:
            reaped = lifecycle.reap(session, policy=policy, lease_seconds=self.settings.lease_seconds)
        for job_id in reaped:
            _logger.warning("took %s from a worker that fell silent", job_id)

    def _repeat_hints(self) -> None:
        with transaction(self.factory) as session:
            due = dispatch.list_due(session, republish_seconds=self.settings.republish_seconds)
        for job_id in due:
            if not self.queue.enqueue_job(job_id):
                return
            with transaction(self.factory) as session:
                dispatch.mark_dispatched(session, job_id)

    def _prune(self) -> None:
        with transaction(self.factory) as session:
            checkpoints.prune(session, keep=self.settings.checkpoints_kept)


def start_reconcile_loop(settings: Settings) -> Callable[[], None]:
    """Run a round every ``settings.reconcile_seconds`` in a thread of its own.

    Returns:
        A function that stops the loop and closes its connections; it waits for the round in progress.
    """
    engine = build_engine(settings)
    queue = JobQueue.from_settings(settings)
    reconciler = Reconciler(settings, engine, build_session_factory(engine), queue)
    stopping = threading.Event()

    def loop() -> None:
        while not stopping.is_set():
            reconciler.run_round()
            stopping.wait(settings.reconcile_seconds)

    thread = threading.Thread(target=loop, name="reconcile", daemon=True)
    thread.start()

    def stop() -> None:
        stopping.set()
        thread.join()
        queue.close()
        engine.dispose()

    return stop


@contextmanager
def _only_one(engine: Engine) -> Iterator[bool]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}))
        try:
            yield taken
        finally:
            if taken:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
