"""The outbox side of a job row: which queued jobs still need a hint on the broker."""

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.db.models.fine_tuning_job import FineTuningJob, JobStatus

LONGEST_WAIT_SECONDS = 600.0


def mark_dispatched(session: Session, job_id: str) -> None:
    """Record that a hint for a queued job reached the broker; the caller commits."""
    statement = update(FineTuningJob).where(FineTuningJob.id == job_id, FineTuningJob.status == JobStatus.QUEUED)
    session.execute(
        statement.values(dispatched_at=func.now(), dispatch_count=FineTuningJob.dispatch_count + 1),
        execution_options={"synchronize_session": False},
    )


def list_due(session: Session, *, republish_seconds: float, limit: int = 100) -> list[str]:
    """Return ids of claimable jobs that were never announced, or so long ago that the hint must be lost.

    The wait is ``republish_seconds`` after the first hint and doubles with each, up to ten minutes.
    """
    doubled = republish_seconds * func.power(2.0, func.least(FineTuningJob.dispatch_count - 1, 20))
    wait = func.make_interval(0, 0, 0, 0, 0, 0, func.least(doubled, LONGEST_WAIT_SECONDS))
    statement = (
        select(FineTuningJob.id)
        .where(
            FineTuningJob.status == JobStatus.QUEUED,
            FineTuningJob.not_before <= func.now(),
            or_(FineTuningJob.dispatched_at.is_(None), FineTuningJob.dispatched_at + wait < func.now()),
        )
        .order_by(FineTuningJob.priority.desc(), FineTuningJob.created_at)
        .limit(limit)
    )
    return list(session.scalars(statement))
