"""One preview from claim to answer. The calling thread holds the slot and keeps the lease; the host computes."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.core.failpoints import pass_failpoint
from app.core.logging import get_logger
from app.db.models import Artifact
from app.db.session import transaction
from app.saliency import leases
from app.saliency.leases import ClaimedPreview
from worker.context import WorkerContext
from worker.previews.host import BROKEN, Task
from worker.training.previews.protocol import CANCELLED, PreviewAdapter, PreviewRequest

_LEASE_SECONDS = 10.0
_RENEWALS_PER_LEASE = 20
_TICK_SECONDS = 0.05
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_LOG = get_logger(__name__)


def run_next(context: WorkerContext) -> bool:
    """Answer the preview that is next, if one comes before every job and the warm process is free."""
    host = context.previews
    if not host.reserve():
        return False
    try:
        claimed = _claim(context)
        if claimed is None:
            return False
        pass_failpoint("after_preview_claim")
        _Run(context, claimed).run()
        return True
    finally:
        host.free()


def _lease_seconds(context: WorkerContext) -> float:
    return min(_LEASE_SECONDS, context.settings.lease_seconds)


def _claim(context: WorkerContext) -> ClaimedPreview | None:
    try:
        with transaction(context.factory) as session:
            return leases.claim(session, lease_seconds=_lease_seconds(context))
    except SQLAlchemyError as error:
        _LOG.warning("could not claim a preview", error=type(error).__name__)
        return None


@dataclass
class _Run:
    """A claimed preview and when its lease was last renewed."""

    context: WorkerContext
    claimed: ClaimedPreview
    contact: float = 0.0

    def run(self) -> None:
        """Compute and hand in; nothing escapes: what cannot be handed in, the next claim or the waiter settles."""
        self.contact = time.monotonic()
        task = Task(self._fill, self.context.settings.preview_seconds)
        self.context.previews.submit(task)
        renew_at = 0.0
        while not task.done.wait(_TICK_SECONDS):
            if time.monotonic() >= renew_at and not task.cancelled.is_set():
                renew_at = time.monotonic() + _lease_seconds(self.context) / _RENEWALS_PER_LEASE
                if self.context.draining.is_set() or not self._renew():
                    task.cancelled.set()
        try:
            with transaction(self.context.factory) as session:
                self._settle(task, session)
        except SQLAlchemyError as error:
            _LOG.warning("preview not handed in", error=type(error).__name__)

    def _settle(self, task: Task, session: Session) -> None:
        refusal = task.refusal
        if task.answer is not None:
            leases.finish(session, self.claimed, answer=task.answer)
        elif refusal is not None and refusal.code == CANCELLED:
            # Somebody else may still want it: only this worker is going.
            leases.release(session, self.claimed, is_counted=not self.context.draining.is_set())
        elif refusal is not None and refusal.code == BROKEN:
            leases.release(session, self.claimed, is_counted=True)
        elif refusal is not None:
            error = {name: getattr(refusal, name) for name in ("code", "message", "param", "data")}
            leases.finish(session, self.claimed, error=error)

    def _renew(self) -> bool:
        """Return whether to go on: the preview is ours and wanted, as far as the database can be asked."""
        seconds = _lease_seconds(self.context)
        try:
            with transaction(self.context.factory) as session:
                wanted = leases.renew(session, self.claimed, lease_seconds=seconds)
        except SQLAlchemyError as error:
            _LOG.warning("preview lease not renewed", error=type(error).__name__)
            return time.monotonic() - self.contact < seconds
        self.contact = time.monotonic()
        return wanted

    def _fill(self, folder: Path) -> bytes:
        """Fetch the tuned model's adapter into ``folder``; return the request with what only a worker knows."""
        request = PreviewRequest.model_validate_json(self.claimed.request)
        threads = self.context.settings.trainer_threads()
        changes: dict[str, object] = {"runtime": request.runtime.model_copy(update={"threads": threads})}
        if self.claimed.adapter_id is not None:
            changes["adapter"] = self._fetch_adapter(self.claimed.adapter_id, folder)
        return request.model_copy(update=changes).model_dump_json().encode()

    def _fetch_adapter(self, adapter_id: str, folder: Path) -> PreviewAdapter:
        with self.context.factory() as session:
            mine = (Artifact.owner_id == adapter_id, Artifact.name.in_(_ADAPTER_FILES))
            rows = session.execute(select(Artifact.name, Artifact.sha256).where(*mine)).all()
        files = {row.name: row.sha256 for row in rows}
        for name, sha256 in files.items():
            self.context.store.download(sha256, folder / name)
        digest = hashlib.sha256("".join(files.get(name, "") for name in _ADAPTER_FILES).encode()).hexdigest()
        return PreviewAdapter(path=str(folder), digest=digest)
