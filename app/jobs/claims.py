"""Which queued job is next."""

from sqlalchemy import ColumnElement, case, func, literal, select
from sqlalchemy.orm import aliased

from app.db.models.fine_tuning_job import FineTuningJob, JobStatus


def next_eligible(hint: str | None) -> ColumnElement[str]:
    """Return a locking subquery of one job id: the hinted job, else the next by priority, project load and age.

    Rows that another transaction has locked are skipped, so concurrent claims never wait for each other.
    """
    running = aliased(FineTuningJob)
    busy = (
        select(running.project_id, func.count().label("jobs"))
        .where(running.status == JobStatus.RUNNING)
        .group_by(running.project_id)
        .subquery()
    )
    return (
        select(FineTuningJob.id)
        .outerjoin(busy, busy.c.project_id == FineTuningJob.project_id)
        .where(
            FineTuningJob.status == JobStatus.QUEUED,
            FineTuningJob.not_before <= func.now(),
            FineTuningJob.cancel_requested_at.is_(None),
        )
        .order_by(
            case((FineTuningJob.id == literal(hint), 0), else_=1),
            FineTuningJob.priority.desc(),
            func.coalesce(busy.c.jobs, 0),
            FineTuningJob.created_at,
            FineTuningJob.id,
        )
        .limit(1)
        .with_for_update(of=FineTuningJob, skip_locked=True)
        .correlate(None)
        .scalar_subquery()
    )
