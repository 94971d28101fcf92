"""The outbox side of a job row: which queued jobs still need a hint on the broker."""

from collections.abc import Collection

from sqlalchemy import any_, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Session

from app.db.models.fine_tuning_job import FineTuningJob, JobStatus

LONGEST_WAIT_SECONDS = 600.0
_FREE = (
    select(FineTuningJob.id)
    .where(FineTuningJob.id == any_(bindparam("job_ids", type_=ARRAY(TEXT))), FineTuningJob.status == JobStatus.QUEUED)
    .with_for_update(key_share=True, skip_locked=True)
)
_NOTE = (
    update(FineTuningJob)
    .where(FineTuningJob.id.in_(_FREE))
    .values(dispatched_at=func.now(), dispatch_count=FineTuningJob.dispatch_count + 1)
)


def mark_dispatched(session: Session, job_ids: Collection[str]) -> None:
    """Record that hints for queued jobs reached the broker; the caller commits.

    A row that is locked belongs to a worker by now, which the hint has served: it is passed over, so that one worker
    that hangs does not hold up the others' notes.
    """
    session.execute(_NOTE, {"job_ids": list(job_ids)}, execution_options={"synchronize_session": False})


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
