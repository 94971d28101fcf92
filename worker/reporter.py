"""Carries a child's events into the database: batched, in order, in short fenced transactions, from its own thread."""

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.core.logging import get_logger
from app.jobs.auto import adopt_settings
from app.jobs.events import append_events
from app.jobs.leases import Lease, LeaseLostError, renew
from worker import patience
from worker.context import WorkerContext
from worker.keeping import FileKeeper, has_files
from worker.narration import Row, describe
from worker.progress import ProgressBoard
from worker.training.events import Event, PhaseEvent

BATCH_EVENTS = 100
BATCH_SECONDS = 0.5
_LOG = get_logger(__name__)


class Reporter:
    """Writes what one attempt's child says, for as long as the attempt owns the job.

    Args:
        context: The worker's connections.
        lease: Fences every write.
        board: Told of every event at once; its heartbeat travels with the batches.
        folder: The workspace, where files lie that events name.
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
        self._give_up = give_up
        self._on_cancel = on_cancel
        self._phases: set[str] = set()
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._keeper = FileKeeper(context, lease, folder, give_up=give_up, closing=self._closing)
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
        if has_files(event) or describe(event) is not None:
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
            if has_files(event):
                self._write(rows)
                complaint = self._keeper.keep(event)
                rows = [] if complaint is None else [Row("warn", complaint)]
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
                fields = [
                    {"level": row.level, "type": row.type, "message": row.message, "data": row.data} for row in batch
                ]
                append_events(session, self._lease.job_id, fields, attempt=self._lease.attempt)
                return cancel

            try:
                if patience.commit(self._context.factory, write, give_up=self._give_up):
                    self._on_cancel()
            except SQLAlchemyError:
                # Only a value that the database refuses comes here; one odd batch must not end a training.
                _LOG.exception("events dropped", job_id=self._lease.job_id, events=len(batch))
