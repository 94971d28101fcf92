"""Steps and looks that the lifecycle tests share."""

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.db.models import FineTuningJob, JobAttempt, JobEvent
from app.jobs import lifecycle
from app.jobs.attempts import AttemptRecord, JobError, RetryPolicy
from app.jobs.leases import Lease

POLICY = RetryPolicy(max_lost=1, max_failed=2, backoff_seconds=0)
BROKEN = JobError("internal_error", "It broke.", "training_file", {"line": 3})
LOST = AttemptRecord("lost", -9, "last words")
DONE = AttemptRecord("succeeded", 0)


def claim(session: Session, job_id: str | None = None, *, lease_seconds: float = 60) -> Lease:
    lease = lifecycle.claim(session, worker="tester", lease_seconds=lease_seconds, hint=job_id)
    assert lease is not None
    return lease


def read(session: Session, job_id: str) -> FineTuningJob:
    found = select(FineTuningJob).where(FineTuningJob.id == job_id)
    return session.scalars(found.execution_options(populate_existing=True)).one()


def messages(session: Session, job_id: str) -> list[str]:
    found = select(JobEvent.message).where(JobEvent.job_id == job_id).order_by(JobEvent.sequence)
    return list(session.scalars(found))


def count(session: Session, table: type) -> int:
    return session.scalars(select(func.count()).select_from(table)).one()


def attempt_row(session: Session, lease: Lease) -> JobAttempt:
    row = session.get(JobAttempt, (lease.job_id, lease.attempt), populate_existing=True)
    assert row is not None
    return row


def expire(session: Session, lease: Lease) -> None:
    past = func.now() - text("interval '1 hour'")
    session.execute(update(FineTuningJob).where(FineTuningJob.id == lease.job_id).values(lease_expires_at=past))
