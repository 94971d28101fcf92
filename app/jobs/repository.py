"""Queries about jobs, their events and their checkpoints. Reads and inserts only; ``lifecycle`` alone moves a job."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, Select, func, literal, select, text, tuple_
from sqlalchemy.orm import Session

from app.core.pagination import PageQuery
from app.db.models.checkpoint import Checkpoint
from app.db.models.fine_tuning_job import FineTuningJob
from app.db.models.idempotency_key import IdempotencyKey
from app.db.models.job_event import JobEvent
from app.jobs.wire import JOB_COLUMNS

_LOCKS = text(
    "SELECT pg_advisory_xact_lock(lock) FROM"
    " (SELECT DISTINCT hashtextextended(name, 0) AS lock FROM unnest(CAST(:names AS text[])) AS name"
    "  ORDER BY lock) AS locks"
)
_TWINS = text(
    "SELECT DISTINCT project_id, request_digest, request_retry_count > 0 AS by_retry FROM fine_tuning_jobs"
    " WHERE request_digest = ANY(CAST(:digests AS text[])) AND created_at > now() - make_interval(secs => :seconds)"
)
_LOCK_WAITS = text("SELECT set_config('lock_timeout', :milliseconds, true)")
_QUEUED = text(
    "SELECT project, (SELECT count(*) FROM (SELECT 1 FROM fine_tuning_jobs"
    " WHERE project_id = project AND status = 'queued' LIMIT :most) AS queued) AS waiting"
    " FROM unnest(CAST(:project_ids AS text[])) AS project"
)


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


def lock_creation(session: Session, project_ids: Collection[str]) -> None:
    """Let no other transaction create jobs of these projects until this one ends.

    Locks are taken in one order everywhere, so that two transactions never wait for each other.
    """
    names = [f"create-job:{project_id}" for project_id in project_ids]
    session.execute(_LOCKS, {"names": names})


def limit_lock_waits(session: Session, *, seconds: float) -> None:
    """Let a statement of this transaction fail that waits for a lock for longer."""
    session.execute(_LOCK_WAITS, {"milliseconds": str(round(1000 * seconds))})


def count_queued(session: Session, project_ids: Collection[str], *, most: int) -> dict[str, int]:
    """Return how many jobs of each project wait for a worker; counting ends at ``most``."""
    counted = session.execute(_QUEUED, {"project_ids": list(project_ids), "most": most})
    return {row.project: row.waiting for row in counted}


def find_idempotency_key(session: Session, project_id: str, key: str) -> IdempotencyKey | None:
    """Return the create call that carried this key."""
    return session.get(IdempotencyKey, (project_id, key))


def list_known_keys(session: Session, wanted: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return which of these pairs of a project's id and an idempotency key a create call has carried."""
    columns = (IdempotencyKey.project_id, IdempotencyKey.key)
    known = session.execute(select(*columns).where(tuple_(*columns).in_(wanted)))
    return {(row.project_id, row.key) for row in known}


def list_twins(session: Session, digests: Collection[str], *, seconds: float) -> set[tuple[str, str, bool]]:
    """Return project, digest and whether a retry made it, of the jobs with these digests in the last ``seconds``."""
    equal = session.execute(_TWINS, {"digests": list(digests), "seconds": seconds})
    return {(row.project_id, row.request_digest, row.by_retry) for row in equal}


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
