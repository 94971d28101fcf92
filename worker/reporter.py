"""Carries a child's events into the database: batched, in order, in short fenced transactions, from its own thread."""

import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from obstore.exceptions import BaseError as StorageError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.core.logging import get_logger
from app.jobs import checkpoints
from app.jobs.auto import adopt_settings
from app.jobs.events import append_event
from app.jobs.leases import Lease, LeaseLostError, renew
from worker import patience
from worker.context import WorkerContext
from worker.narration import Row, describe
from worker.outputs import list_checkpoint_files
from worker.progress import ProgressBoard
from worker.snapshots import store_snapshot
from worker.training.events import CheckpointEvent, Event, PhaseEvent, SaliencyEvent
from worker.uploads import upload

BATCH_EVENTS = 100
BATCH_SECONDS = 0.5
UPLOAD_TRIES = 3
_LOG = get_logger(__name__)


class Reporter:
    """Writes what one attempt's child says, for as long as the attempt owns the job.

    Args:
        context: The worker's connections.
        lease: Fences every write.
        board: Told of every event at once; its heartbeat travels with the batches.
        folder: The workspace, where checkpoints lie.
        give_up: Whether to stop waiting for a database that is away.
        on_cancel: Called when a write learns that a cancel was requested, sooner than the next renewal would.
    """

    def __init__(
        self,
        context: WorkerContext,
        lease: Lease,
        *,
        board: ProgressBoard,
        folder: Path,
        give_up: Callable[[], bool],
        on_cancel: Callable[[], None],
    ) -> None:
        self._context = context
        self._lease = lease
        self._board = board
        self._folder = folder
        self._give_up = give_up
        self._on_cancel = on_cancel
        self._phases: set[str] = set()
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"report-{lease.job_id}", daemon=True)
        self._thread.start()

    def accept(self, event: Event) -> None:
        """Note an event and queue what belongs into the job's history; never blocks."""
        self._board.note(event)
        if isinstance(event, PhaseEvent):
            # Validation alternates with training; the history needs each phase once.
            if event.phase in self._phases:
                return
            self._phases.add(event.phase)
        if isinstance(event, CheckpointEvent | SaliencyEvent) or describe(event) is not None:
            self._queue.put(event)

    def close(self) -> None:
        """Wait until everything accepted is written, fenced, or given up."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not (self._closing.is_set() and self._queue.empty()):
                self._closing.wait(BATCH_SECONDS)
                self._write_pending()
        except LeaseLostError:
            _LOG.info("reports fenced", job_id=self._lease.job_id, attempt=self._lease.attempt)
        except patience.GaveUpError:
            _LOG.warning("gave up reporting", job_id=self._lease.job_id)

    def _write_pending(self) -> None:
        rows: list[Row] = []
        while not self._queue.empty():
            event = self._queue.get()
            if isinstance(event, CheckpointEvent | SaliencyEvent):
                self._write(rows)
                rows = []
                self._store(event)
            elif (row := describe(event)) is not None:
                rows.append(row)
        self._write(rows)

    def _write(self, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), BATCH_EVENTS):
            batch = rows[start : start + BATCH_EVENTS]

            def write(session: Session, batch: Sequence[Row] = batch) -> bool:
                seconds = self._context.settings.lease_seconds
                cancel = renew(session, self._lease, lease_seconds=seconds, heartbeat=self._board.heartbeat())
                for row in batch:
                    if row.settings is not None:
                        adopt_settings(session, self._lease, row.settings.hyperparameters, row.settings.auto)
                    append_event(
                        session,
                        self._lease.job_id,
                        attempt=self._lease.attempt,
                        level=row.level,
                        type=row.type,
                        message=row.message,
                        data=row.data,
                    )
                return cancel

            try:
                if patience.commit(self._context.factory, write, give_up=self._give_up):
                    self._on_cancel()
            except SQLAlchemyError:
                # Only a value that the database refuses comes here; one odd batch must not end a training.
                _LOG.exception("events dropped", job_id=self._lease.job_id, events=len(batch))

    def _store(self, event: CheckpointEvent | SaliencyEvent) -> None:
        kind = "checkpoint" if isinstance(event, CheckpointEvent) else "saliency"
        for attempt in range(UPLOAD_TRIES):
            try:
                if isinstance(event, CheckpointEvent):
                    self._upload_checkpoint(event)
                else:
                    store_snapshot(self._context, self._lease, self._folder, event, give_up=self._give_up)
            except (OSError, ValueError, StorageError) as error:
                _LOG.warning(f"{kind} not stored", job_id=self._lease.job_id, step=event.step, error=str(error))
                self._closing.wait(2.0**attempt)
            else:
                return
        self._write([Row("warn", f"The {kind} at step {event.step} could not be stored; training goes on.")])

    def _upload_checkpoint(self, event: CheckpointEvent) -> None:
        files = upload(self._context, list_checkpoint_files(self._folder, event.path), give_up=self._give_up)

        def register(session: Session) -> None:
            checkpoints.register_checkpoint(
                session, self._lease, step=event.step, metrics=dict(event.metrics), files=files
            )

        patience.commit(self._context.factory, register, give_up=self._give_up)
        shutil.rmtree(self._folder / event.path, ignore_errors=True)
