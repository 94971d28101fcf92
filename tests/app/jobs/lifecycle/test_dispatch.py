from sqlalchemy import func, text, update
from sqlalchemy.orm import Session

from app.db.models import FineTuningJob
from app.jobs import dispatch, lifecycle
from app.jobs.attempts import AttemptRecord
from app.jobs.leases import Lease
from tests.app.jobs.lifecycle.steps import read


def dispatched(session: Session, job_id: str, *, seconds_ago: float, times: int) -> None:
    when = func.now() - text(f"interval '{seconds_ago} seconds'")
    changed = update(FineTuningJob).where(FineTuningJob.id == job_id).values(dispatched_at=when, dispatch_count=times)
    session.execute(changed)


def is_due(session: Session, job_id: str) -> bool:
    return dispatch.list_due(session, republish_seconds=30) == [job_id]


def test_job_is_due_until_it_was_announced(session: Session, job_id: str) -> None:
    assert is_due(session, job_id)
    dispatch.mark_dispatched(session, [job_id])
    assert not is_due(session, job_id)
    assert read(session, job_id).dispatch_count == 1


def test_hint_is_repeated_ever_more_rarely(session: Session, job_id: str) -> None:
    for times, wait in ((1, 30), (2, 60), (3, 120), (6, 600), (40, 600)):
        dispatched(session, job_id, seconds_ago=wait - 1, times=times)
        assert not is_due(session, job_id)
        dispatched(session, job_id, seconds_ago=wait + 1, times=times)
        assert is_due(session, job_id)


def test_running_and_waiting_jobs_are_not_announced(session: Session, lease: Lease) -> None:
    assert not is_due(session, lease.job_id)
    dispatch.mark_dispatched(session, [lease.job_id])
    assert read(session, lease.job_id).dispatched_at is None
    lifecycle.requeue(session, lease, AttemptRecord("stopped"), delay_seconds=60)
    assert not is_due(session, lease.job_id)
    session.execute(update(FineTuningJob).values(not_before=func.now()))
    assert is_due(session, lease.job_id)
