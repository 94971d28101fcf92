"""Who may not move a job: stale owners, late workers, anybody once it is finished."""

import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Interval, cast, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.core.errors import ConflictError, NotFoundError
from app.db.models import Adapter, FileHold, FineTuningJob, JobStatus
from app.db.models.fine_tuning_job import TERMINAL
from app.db.session import SessionFactory
from app.jobs import leases, lifecycle
from app.jobs.attempts import AttemptRecord
from app.jobs.leases import Lease, LeaseLostError
from app.jobs.publication import JobResult
from app.storage import BlobStore
from tests.app.jobs.lifecycle.steps import BROKEN, DONE, LOST, POLICY, attempt_row, claim, count, expire, messages, read
from tests.worker.scripted_jobs import add_project


def test_late_renewal_counts_until_somebody_took_over(session: Session, lease: Lease) -> None:
    expire(session, lease)
    assert lifecycle.renew(session, lease, lease_seconds=60) is False
    assert lifecycle.reap(session, policy=POLICY, lease_seconds=0) == []
    expire(session, lease)
    assert lifecycle.reap(session, policy=POLICY, lease_seconds=0) == [lease.job_id]
    with pytest.raises(LeaseLostError):
        lifecycle.renew(session, lease, lease_seconds=60)


def test_cancel_of_a_queued_job_is_immediate(session: Session, project: str, job_id: str) -> None:
    job = lifecycle.request_cancel(session, project, job_id)
    assert job.status == "cancelled"
    assert job.cancel_requested_at is not None
    assert job.finished_at is not None
    assert count(session, FileHold) == 0
    assert lifecycle.claim(session, worker="tester", lease_seconds=60, hint=job_id) is None


def test_cancel_of_a_running_job_is_confirmed_by_its_worker(session: Session, project: str, lease: Lease) -> None:
    for _ in range(2):
        assert lifecycle.request_cancel(session, project, lease.job_id).status == "running"
    assert messages(session, lease.job_id).count("Cancellation requested.") == 1
    lifecycle.cancelled(session, lease, AttemptRecord("cancelled", 14))
    assert read(session, lease.job_id).status == "cancelled"
    assert messages(session, lease.job_id)[-1] == "Fine-tuning job cancelled."


def test_cancelled_job_never_goes_back_to_the_queue_nor_succeeds(
    session: Session, project: str, lease: Lease, result: JobResult
) -> None:
    lifecycle.request_cancel(session, project, lease.job_id)
    assert lifecycle.succeed(session, lease, result, DONE) is False
    assert count(session, Adapter) == 0
    with session.begin_nested() as savepoint:
        assert lifecycle.requeue(session, lease, AttemptRecord("stopped")) == JobStatus.CANCELLED
        savepoint.rollback()
    with session.begin_nested() as savepoint:
        assert lifecycle.retry(session, lease, BROKEN, LOST, policy=POLICY) == JobStatus.CANCELLED
        savepoint.rollback()
    expire(session, lease)
    assert lifecycle.reap(session, policy=POLICY, lease_seconds=0) == [lease.job_id]
    assert read(session, lease.job_id).status == "cancelled"


def test_unknown_and_foreign_jobs_cannot_be_cancelled(
    session: Session, job_id: str, session_factory: SessionFactory, store: BlobStore
) -> None:
    stranger = add_project(session_factory, store)
    for project_id, wanted in ((stranger, job_id), (stranger, "ftjob-none")):
        with pytest.raises(NotFoundError):
            lifecycle.request_cancel(session, project_id, wanted)


def test_reaper_counts_a_loss_and_gives_up_when_losses_are_used_up(session: Session, job_id: str) -> None:
    for expected in ("queued", "failed"):
        lease = claim(session)
        expire(session, lease)
        assert lifecycle.reap(session, policy=POLICY, lease_seconds=0) == [job_id]
        assert read(session, job_id).status == expected
        assert attempt_row(session, lease).outcome == "lost"
    assert read(session, job_id).error_code == "worker_lost"


def test_reaper_leaves_everybody_alone_right_after_a_database_start(session: Session, lease: Lease) -> None:
    expire(session, lease)
    up = session.scalars(select(cast(func.now() - func.pg_postmaster_start_time(), Interval))).one()
    assert lifecycle.reap(session, policy=POLICY, lease_seconds=up.total_seconds() + 60) == []
    assert lifecycle.reap(session, policy=POLICY, lease_seconds=0) == [lease.job_id]


@pytest.mark.parametrize("end", TERMINAL)
def test_finished_job_is_finished_for_everybody(
    session: Session, project: str, lease: Lease, result: JobResult, *, end: JobStatus
) -> None:
    finish: dict[JobStatus, Callable[[], object]] = {
        JobStatus.SUCCEEDED: lambda: lifecycle.succeed(session, lease, result, DONE),
        JobStatus.FAILED: lambda: lifecycle.fail(session, lease, BROKEN, DONE),
        JobStatus.CANCELLED: lambda: lifecycle.cancelled(session, lease, DONE),
    }
    finish[end]()
    session.commit()
    assert not lifecycle.TRANSITIONS[end]
    for again in finish.values():
        with pytest.raises(LeaseLostError):
            again()
    with pytest.raises(ConflictError):
        lifecycle.request_cancel(session, project, lease.job_id)
    assert lifecycle.claim(session, worker="tester", lease_seconds=60, hint=lease.job_id) is None
    session.rollback()
    for status in set(JobStatus) - {end}:
        with pytest.raises(DBAPIError):
            session.execute(update(FineTuningJob).where(FineTuningJob.id == lease.job_id).values(status=status))
        session.rollback()
    assert read(session, lease.job_id).status == end


def late_writes(session: Session, stale: Lease, result: JobResult) -> list[Callable[[], object]]:
    record = AttemptRecord("late")
    return [
        lambda: leases.lock(session, stale),
        lambda: lifecycle.renew(session, stale, lease_seconds=60),
        lambda: lifecycle.succeed(session, stale, result, record),
        lambda: lifecycle.fail(session, stale, BROKEN, record),
        lambda: lifecycle.cancelled(session, stale, record),
        lambda: lifecycle.requeue(session, stale, record),
        lambda: lifecycle.retry(session, stale, BROKEN, record, policy=POLICY),
    ]


@pytest.mark.parametrize("part", ["attempt", "token"])
def test_every_write_of_a_worker_is_fenced(session: Session, lease: Lease, result: JobResult, *, part: str) -> None:
    stale = replace(lease, attempt=2) if part == "attempt" else replace(lease, token=uuid.uuid4())
    for write in late_writes(session, stale, result):
        with pytest.raises(LeaseLostError):
            write()
    assert count(session, Adapter) == 0
    assert attempt_row(session, lease).outcome is None
    assert read(session, lease.job_id).status == "running"
