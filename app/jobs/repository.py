"""Queries about jobs, their events and their checkpoints. Reads and inserts only; ``lifecycle`` alone moves a job."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, Select, func, literal, select
from sqlalchemy.orm import Session

from app.core.pagination import PageQuery
from app.db.models.checkpoint import Checkpoint
from app.db.models.fine_tuning_job import FineTuningJob, JobStatus
from app.db.models.idempotency_key import IdempotencyKey
from app.db.models.job_event import JobEvent
from app.jobs.wire import JOB_COLUMNS


def find_job(session: Session, project_id: str, job_id: str) -> FineTuningJob | None:
    """Return the project's job."""
    statement = select(FineTuningJob).where(FineTuningJob.id == job_id, FineTuningJob.project_id == project_id)
    return session.scalar(statement)


def list_jobs(
    session: Session, project_id: str, query: PageQuery, *, metadata: Mapping[str, str] | None, without_metadata: bool
) -> Sequence[Row[Any]]:
    """Return ``JOB_COLUMNS`` of the project's jobs, newest first, one beyond the page; ``metadata`` must all match."""
    statement = select(*JOB_COLUMNS).where(FineTuningJob.project_id == project_id)
    if without_metadata:
        statement = statement.where(FineTuningJob.job_metadata.is_(None))
    if metadata:
        statement = statement.where(FineTuningJob.job_metadata.contains(dict(metadata)))
    if query.after is not None:
        statement = statement.where(FineTuningJob.id < query.after)
    return session.execute(statement.order_by(FineTuningJob.id.desc()).limit(query.limit + 1)).all()


def list_events(session: Session, job_id: str, *, before: int | None, limit: int) -> Sequence[JobEvent]:
    """Return up to ``limit`` events of a job, newest first, with sequence numbers below ``before``."""
    statement = select(JobEvent).where(JobEvent.job_id == job_id)
    if before is not None:
        statement = statement.where(JobEvent.sequence < before)
    return session.scalars(statement.order_by(JobEvent.sequence.desc()).limit(limit)).all()


def find_event_sequence(session: Session, job_id: str, event_id: str) -> int | None:
    """Return the position of a job's event."""
    return session.scalar(select(JobEvent.sequence).where(JobEvent.job_id == job_id, JobEvent.id == event_id))


def list_checkpoints(session: Session, job_id: str, *, before: int | None, limit: int) -> Sequence[Checkpoint]:
    """Return up to ``limit`` checkpoints of a job, highest step first, with steps below ``before``."""
    statement = select(Checkpoint).where(Checkpoint.job_id == job_id)
    if before is not None:
        statement = statement.where(Checkpoint.step < before)
    return session.scalars(statement.order_by(Checkpoint.step.desc()).limit(limit)).all()


def find_checkpoint_step(session: Session, job_id: str, checkpoint_id: str) -> int | None:
    """Return the optimizer step of a job's checkpoint."""
    return session.scalar(select(Checkpoint.step).where(Checkpoint.job_id == job_id, Checkpoint.id == checkpoint_id))


def lock_creation(session: Session, project_id: str) -> None:
    """Let the creates of one project pass one at a time until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"create-job:{project_id}", 0))))


def count_queued(session: Session, project_id: str, *, most: int) -> int:
    """Return how many jobs of the project wait for a worker; counting ends at ``most``."""
    queued = select(literal(1)).where(FineTuningJob.project_id == project_id, FineTuningJob.status == JobStatus.QUEUED)
    return session.scalars(select(func.count()).select_from(queued.limit(most).subquery())).one()


def find_idempotency_key(session: Session, project_id: str, key: str) -> IdempotencyKey | None:
    """Return the create call that carried this key."""
    return session.get(IdempotencyKey, (project_id, key))


def find_latest_twin(session: Session, project_id: str, digest: str, *, seconds: float) -> FineTuningJob | None:
    """Return the project's newest job made from an equal body in the last ``seconds``."""
    return session.scalar(_twins(project_id, digest, seconds).limit(1))


def find_overtaking_retry(session: Session, project_id: str, digest: str, *, seconds: float) -> FineTuningJob | None:
    """Like ``find_latest_twin``, of jobs that a retry made whose first request has not been seen yet."""
    return session.scalar(_twins(project_id, digest, seconds).where(FineTuningJob.request_retry_count > 0).limit(1))


def _twins(project_id: str, digest: str, seconds: float) -> Select[FineTuningJob]:
    return (
        select(FineTuningJob)
        .where(
            FineTuningJob.project_id == project_id,
            FineTuningJob.request_digest == digest,
            FineTuningJob.created_at > func.now() - literal(timedelta(seconds=seconds)),
        )
        .order_by(FineTuningJob.id.desc())
    )
