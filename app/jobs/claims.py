"""Which queued job is next.

A host passes over jobs that want more devices than it has in all. A job that it could run but for devices that are
busy is not overtaken on it: no claim succeeds there until enough are free, so a stream of small jobs cannot starve a
large one. A hint jumps the queue only where nobody waits like that.

Jobs may share the trainer of one that was claimed before them (docs/adr/0013-jobs-that-share-a-base.md), but only those
whose turn it is anyway.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, exists, func, literal, select
from sqlalchemy.orm import aliased

from app.db.models.fine_tuning_job import FineTuningJob, JobStatus
from app.jobs.leases import Lease


@dataclass(frozen=True, slots=True)
class Room:
    """Devices of the host that asks for a job: ``free`` now, of ``total``."""

    free: int = 1
    total: int = 1


def next_eligible(hint: str | None, room: Room) -> ColumnElement[str]:
    """Return a locking subquery of one job id: the hinted job, else the next by priority, project load and age.

    The job may want more than is free. Rows that another transaction has locked are skipped, so concurrent claims
    never wait for each other.
    """
    waiting = aliased(FineTuningJob)
    is_somebody_waiting = exists().where(
        waiting.status == JobStatus.QUEUED,
        waiting.not_before <= func.now(),
        waiting.cancel_requested_at.is_(None),
        waiting.n_gpus > room.free,
        waiting.n_gpus <= room.total,
    )
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
            FineTuningJob.n_gpus <= room.total,
        )
        .order_by(
            case((and_(FineTuningJob.id == literal(hint), ~is_somebody_waiting), 0), else_=1),
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


def may_share_with(first: Lease) -> ColumnElement[bool]:
    """Return whether a job may be trained in one process with the job of ``first``.

    Both are of one project, want one device and the same base model and process settings, and have had no bad end: a
    process that died may have died of either, so whoever was in it goes by itself from then on.
    """
    holder = aliased(FineTuningJob)
    shared = (
        holder.project_id == FineTuningJob.project_id,
        holder.spec["base_model"] == FineTuningJob.spec["base_model"],
        holder.spec["runtime"] == FineTuningJob.spec["runtime"],
    )
    unharmed = [one.lost_count + one.failed_count == 0 for one in (holder, FineTuningJob)]
    single = [one.n_gpus == 1 for one in (holder, FineTuningJob)]
    return exists().where(holder.id == first.job_id, *shared, *unharmed, *single).correlate(FineTuningJob)
