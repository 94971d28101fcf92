"""Stores the files that a child's events name: checkpoints, saliency, parts of building stages."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from obstore.exceptions import BaseError as StorageError
from sqlalchemy.orm import Session

from app.core.logging import get_logger
from app.jobs import checkpoints, stages
from app.jobs.leases import Lease
from app.jobs.stages import PartId
from worker import patience
from worker.context import WorkerContext
from worker.outputs import list_checkpoint_files
from worker.snapshots import store_snapshot
from worker.stages import find_part
from worker.training.events import CheckpointEvent, Event, SaliencyEvent, StageEvent
from worker.uploads import upload

UPLOAD_TRIES = 3
_LOG = get_logger(__name__)
_KEPT = (CheckpointEvent, SaliencyEvent, StageEvent)


def has_files(event: Event) -> bool:
    """Return whether ``event`` names files to keep."""
    return isinstance(event, _KEPT)


class FileKeeper:
    """Stores files of one attempt.

    Args:
        context: The worker's connections.
        lease: Fences every write.
        folder: The workspace.
        give_up: Whether to stop waiting for a database that is away.
        closing: Ends the pause between two tries.
    """

    def __init__(
        self,
        context: WorkerContext,
        lease: Lease,
        folder: Path,
        *,
        give_up: Callable[[], bool],
        closing: threading.Event,
    ) -> None:
        self._context = context
        self._lease = lease
        self._folder = folder
        self._give_up = give_up
        self._closing = closing

    def keep(self, event: Event) -> str | None:
        """Store the files of ``event`` and register them; return what to tell the job's owner if that fails.

        Raises:
            LeaseLostError: The job is no longer this attempt's.
            patience.GaveUpError: The database stayed away.
        """
        for attempt in range(UPLOAD_TRIES):
            try:
                self._store(event)
            except (OSError, ValueError, StorageError) as error:
                kind = type(event).__name__
                _LOG.warning("files not stored", job_id=self._lease.job_id, event_type=kind, error=str(error))
                self._closing.wait(2.0**attempt)
            else:
                return None
        return f"{_name(event)} could not be stored; training goes on."

    def _store(self, event: Event) -> None:
        match event:
            case CheckpointEvent():
                self._store_checkpoint(event)
            case SaliencyEvent():
                store_snapshot(self._context, self._lease, self._folder, event, give_up=self._give_up)
            case StageEvent():
                self._store_part(event)

    def _store_checkpoint(self, event: CheckpointEvent) -> None:
        files = upload(self._context, list_checkpoint_files(self._folder, event.path), give_up=self._give_up)

        def register(session: Session) -> None:
            checkpoints.register_checkpoint(
                session, self._lease, step=event.step, metrics=dict(event.metrics), files=files
            )

        patience.commit(self._context.factory, register, give_up=self._give_up)
        shutil.rmtree(self._folder / event.path, ignore_errors=True)

    def _store_part(self, event: StageEvent) -> None:
        most_bytes = self._context.settings.score_cache_bytes
        is_scores = event.stage == "scoring"
        if is_scores and not most_bytes:
            return
        path = find_part(self._folder, event)
        (stored,) = upload(self._context, {path.name: path}, give_up=self._give_up)
        part = PartId(event.stage, event.key, event.part)

        def register(session: Session) -> None:
            project_id = stages.record_part(session, self._lease, part, stored)
            if is_scores:
                stages.bound_stage(session, project_id, part.stage, most_bytes=most_bytes)

        patience.commit(self._context.factory, register, give_up=self._give_up)


def _name(event: Event) -> str:
    match event:
        case CheckpointEvent():
            return f"The checkpoint at step {event.step}"
        case SaliencyEvent():
            return f"The saliency at step {event.step}"
        case StageEvent():
            return f"Part {event.part} of the {event.stage}"
    return "A file"
