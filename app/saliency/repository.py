"""The rows of previews, from the side of those who wait, and the models that they may name."""

from dataclasses import dataclass

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.base import Json
from app.db.models import Adapter, BaseModel, FineTuningJob, JobStatus, SaliencyPreview
from app.saliency.leases import MOST_ATTEMPTS, seconds_from_now


@dataclass(frozen=True, slots=True)
class PreviewState:
    """Where a preview stands: ``is_lost`` when no worker will finish it any more."""

    has_started: bool
    has_finished: bool
    is_lost: bool
    answer: bytes | None
    error: Json | None


def find_base_model(session: Session, name: str) -> BaseModel | None:
    """Return the allowed base model."""
    return session.get(BaseModel, name)


def find_adapter(session: Session, project_id: str, model: str) -> Adapter | None:
    """Return the project's adapter of this model name, unless it was deleted."""
    mine = (Adapter.model == model, Adapter.project_id == project_id, Adapter.deleted_at.is_(None))
    return session.scalar(select(Adapter).where(*mine))


def list_model_names(session: Session) -> list[str]:
    """Return the names of the allowed base models."""
    return list(session.scalars(select(BaseModel.id).order_by(BaseModel.id)))


def lock_project(session: Session, project_id: str) -> None:
    """Let the previews of one project be counted and added one at a time until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"preview:{project_id}", 0))))


def count_open(session: Session, project_id: str) -> int:
    """Return how many previews of the project wait or run."""
    mine = (SaliencyPreview.project_id == project_id, SaliencyPreview.finished_at.is_(None))
    statement = select(func.count()).where(*mine, SaliencyPreview.wanted_until > func.now())
    return session.scalars(statement).one()


def add(session: Session, preview: SaliencyPreview, *, wanted_seconds: float) -> None:
    """Insert a preview that is wanted for the next seconds; the caller commits."""
    preview.wanted_until = session.scalars(select(seconds_from_now(wanted_seconds))).one()
    session.add(preview)
    session.flush()


def keep_wanted(session: Session, preview_id: str, *, wanted_seconds: float) -> None:
    """Say that somebody still waits; the caller commits."""
    wanted = update(SaliencyPreview).where(SaliencyPreview.id == preview_id)
    session.execute(
        wanted.values(wanted_until=seconds_from_now(wanted_seconds)).execution_options(synchronize_session=False)
    )


def look(session: Session, preview_id: str) -> PreviewState | None:
    """Return how far a preview is; None when it is gone."""
    spent = (SaliencyPreview.attempt >= MOST_ATTEMPTS) & or_(
        SaliencyPreview.lease_expires_at.is_(None), SaliencyPreview.lease_expires_at < func.now()
    )
    row = session.execute(
        select(
            SaliencyPreview.started_at,
            SaliencyPreview.finished_at,
            spent.label("is_spent"),
            SaliencyPreview.answer,
            SaliencyPreview.error,
        ).where(SaliencyPreview.id == preview_id)
    ).one_or_none()
    if row is None:
        return None
    has_finished = row.finished_at is not None
    is_lost = bool(row.is_spent) and not has_finished
    return PreviewState(row.started_at is not None, has_finished, is_lost, row.answer, row.error)


def remove(session: Session, preview_id: str) -> None:
    """Delete a preview, whatever its state; a worker at it notices and stops. The caller commits."""
    session.execute(delete(SaliencyPreview).where(SaliencyPreview.id == preview_id))


def remove_forgotten(session: Session, *, older_seconds: float) -> int:
    """Delete previews that nobody has wanted for so long: whoever waited has died. Returns how many."""
    cutoff = seconds_from_now(-older_seconds)
    gone = delete(SaliencyPreview).where(SaliencyPreview.wanted_until < cutoff).returning(SaliencyPreview.id)
    return len(session.execute(gone).all())


def count_running_jobs(session: Session) -> int:
    """Return how many jobs occupy workers now."""
    busy = (FineTuningJob.status == JobStatus.RUNNING, FineTuningJob.lease_expires_at > func.now())
    return session.scalars(select(func.count()).where(*busy)).one()
