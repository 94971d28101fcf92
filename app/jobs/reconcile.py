"""The loops that make promises good: reap silent attempts, repeat lost hints, prune checkpoints, collect garbage.

They run in every API and worker process; advisory locks let one round run at a time, and every step is safe without
them. Collecting has a lock and a thread of its own, because listing a large store must not delay the reaper.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from obstore.exceptions import BaseError as StorageError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.completions import ledger
from app.core.logging import get_logger
from app.core.settings import Settings
from app.db.session import SessionFactory, build_engine, build_session_factory, transaction
from app.jobs import checkpoints, dispatch, lifecycle, stages
from app.jobs.exclusive import COLLECT, RECONCILE, Turn
from app.queue import JobQueue
from app.saliency import repository as previews
from app.storage import BlobStore
from app.storage.collection import adopt_orphans, collect, remove_expired_files

_COLLECTIONS_PER_GRACE = 100
_LISTINGS_PER_GRACE = 2
_LOG = get_logger(__name__)


@dataclass
class Reconciler:
    """What one process needs for its rounds.

    Attributes:
        settings: Periods and allowances.
        engine: For the advisory locks, each of which must live on one connection.
        factory: Sessions of the single steps.
        queue: Where repeated hints go.
        store: Where garbage is collected.
        reap_after: Monotonic time before which nobody is reaped: after losing the database this process cannot know
            who was kept from renewing.
        list_after: Monotonic time of the next full listing of the store.
    """

    settings: Settings
    engine: Engine
    factory: SessionFactory
    queue: JobQueue
    store: BlobStore
    reap_after: float = 0.0
    list_after: float = 0.0
    _reconciling: Turn = field(init=False)
    _collecting: Turn = field(init=False)

    def __post_init__(self) -> None:
        """Nobody waits longer than a lease for a holder that may be frozen."""
        self._reconciling = Turn(self.engine, RECONCILE, self.settings.lease_seconds)
        self._collecting = Turn(self.engine, COLLECT, self.settings.lease_seconds)

    def reconcile(self) -> None:
        """Do one round, or nothing when another process is at it or the database is away."""
        try:
            with self._reconciling.take() as mine:
                if mine:
                    self._reap()
                    self._repeat_hints()
                    self._prune()
        except SQLAlchemyError as error:
            self.reap_after = time.monotonic() + self.settings.lease_seconds
            _LOG.warning("reconcile round cut short", error=type(error).__name__)

    def collect(self) -> None:
        """Delete what is expired, unused or unreferenced, or nothing when another process is at it."""
        grace = self.settings.blob_grace_seconds
        try:
            with self._collecting.take() as mine:
                if not mine:
                    return
                if time.monotonic() >= self.list_after:
                    self.list_after = time.monotonic() + grace / _LISTINGS_PER_GRACE
                    adopt_orphans(self.factory, self.store, grace)
                remove_expired_files(self.factory)
                self._drop_unused()
                while collect(self.factory, self.store, grace):
                    pass
        except (SQLAlchemyError, OSError, StorageError) as error:
            _LOG.warning("garbage collection cut short", error=type(error).__name__)

    def _drop_unused(self) -> None:
        """Forget what building left for later jobs and no job has used for long."""
        for drop in (stages.drop_unused, ledger.drop_unused):
            dropped = 1
            while dropped:
                with transaction(self.factory) as session:
                    dropped = drop(session, seconds=self.settings.building_cache_seconds)

    def _reap(self) -> None:
        if time.monotonic() < self.reap_after:
            return
        policy = lifecycle.RetryPolicy.from_settings(self.settings)
        with transaction(self.factory) as session:
            reaped = lifecycle.reap(session, policy=policy, lease_seconds=self.settings.lease_seconds)
        for job_id in reaped:
            _LOG.warning("job taken from a silent worker", job_id=job_id)

    def _repeat_hints(self) -> None:
        with transaction(self.factory) as session:
            due = dispatch.list_due(session, republish_seconds=self.settings.republish_seconds)
        if due and self.queue.enqueue_jobs(due):
            with transaction(self.factory) as session:
                dispatch.mark_dispatched(session, due)

    def _prune(self) -> None:
        with transaction(self.factory) as session:
            checkpoints.prune(session, keep=self.settings.checkpoints_kept)
            previews.remove_forgotten(session, older_seconds=self.settings.lease_seconds)


def start_reconcile_loop(settings: Settings) -> Callable[[], None]:
    """Reconcile every ``settings.reconcile_seconds`` and collect garbage now and then, in threads of their own.

    The first round comes after one period: at its start a worker claims what waits, and a claim passes over jobs that
    a round is announcing.

    Returns:
        A function that stops the loops and closes their connections; it waits for rounds in progress.
    """
    engine = build_engine(settings)
    queue = JobQueue.from_settings(settings)
    store = BlobStore.from_url(settings.storage_url)
    reconciler = Reconciler(settings, engine, build_session_factory(engine), queue, store)
    stopping = threading.Event()
    collect_seconds = max(settings.reconcile_seconds, settings.blob_grace_seconds / _COLLECTIONS_PER_GRACE)
    threads = [
        _repeat(reconciler.reconcile, settings.reconcile_seconds, stopping),
        _repeat(reconciler.collect, collect_seconds, stopping),
    ]

    def stop() -> None:
        stopping.set()
        for thread in threads:
            thread.join()
        queue.close()
        engine.dispose()

    return stop


def _repeat(work: Callable[[], None], seconds: float, stopping: threading.Event) -> threading.Thread:
    def loop() -> None:
        while not stopping.wait(seconds):
            work()

    thread = threading.Thread(target=loop, name=work.__name__, daemon=True)
    thread.start()
    return thread
