"""Every move of a job, and what else the same transaction changes."""

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Interval, cast, func, select, text, update
from sqlalchemy.orm import Session

from app.db.models import Adapter, File, FileHold, FineTuningJob, JobEvent, JobStatus
from app.db.session import SessionFactory
from app.jobs import lifecycle
from app.jobs.attempts import AttemptRecord
from app.jobs.leases import Heartbeat, Lease
from app.jobs.publication import JobResult
from app.storage import BlobStore
from tests.app.jobs.lifecycle.steps import BROKEN, DONE, LOST, POLICY, attempt_row, claim, count, messages, read
from tests.worker.scripted_jobs import add_project, submit_job


def test_submitted_job_is_queued_holds_its_file_and_says_so(session: Session, job_id: str) -> None:
    assert read(session, job_id).status == "queued"
    assert count(session, FileHold) == 1
    assert messages(session, job_id) == [f"Created fine-tuning job: {job_id}"]


def test_claim_takes_ownership_and_opens_an_attempt(session: Session, lease: Lease) -> None:
    job = read(session, lease.job_id)
    assert (job.status, job.attempt, job.lease_owner, job.phase) == ("running", 1, "tester", "preparing")
    assert job.lease_token == lease.token
    assert job.started_at is not None
    assert attempt_row(session, lease).worker == "tester"
    assert messages(session, lease.job_id)[-1] == "Fine-tuning job started."
    assert lifecycle.claim(session, worker="other", lease_seconds=60, hint=lease.job_id) is None


def test_hint_comes_first_then_priority_then_the_idlest_project_then_age(
    session: Session, project: str, session_factory: SessionFactory, store: BlobStore
) -> None:
    idle_project = add_project(session_factory, store)
    old, urgent, hinted = submit_job(session, project), submit_job(session, project, priority=1), None
    hinted, young_of_idle = submit_job(session, project), submit_job(session, idle_project)
    session.commit()  # now() is one instant within a transaction
    newest = submit_job(session, project)
    order = [claim(session, hinted).job_id, *(claim(session).job_id for _ in range(4))]
    assert order == [hinted, urgent, young_of_idle, old, newest]


def test_claim_passes_over_jobs_that_must_wait_or_are_locked(session: Session, project: str) -> None:
    waiting, locked, free = (submit_job(session, project) for _ in range(3))
    later = func.now() + text("interval '1 hour'")
    session.execute(update(FineTuningJob).where(FineTuningJob.id == waiting).values(not_before=later))
    session.commit()
    with Session(session.get_bind()) as rival:
        rival.execute(select(FineTuningJob).where(FineTuningJob.id == locked).with_for_update())
        assert claim(session, waiting).job_id == free
        assert lifecycle.claim(session, worker="tester", lease_seconds=60, hint=locked) is None


def test_renewal_reports_progress_and_hears_of_a_cancel(session: Session, project: str, lease: Lease) -> None:
    before = read(session, lease.job_id).lease_expires_at
    heartbeat = Heartbeat("training", {"done": 1, "total": 2}, 30)
    assert lifecycle.renew(session, lease, lease_seconds=90, heartbeat=heartbeat) is False
    job = read(session, lease.job_id)
    assert (job.phase, job.progress) == ("training", {"done": 1, "total": 2})
    assert job.estimated_finish is not None
    assert before is not None
    assert job.lease_expires_at is not None
    assert job.lease_expires_at > before
    lifecycle.request_cancel(session, project, lease.job_id)
    assert lifecycle.renew(session, lease, lease_seconds=90) is True


def test_success_publishes_everything_in_one_transaction(session: Session, lease: Lease, result: JobResult) -> None:
    assert lifecycle.succeed(session, lease, result, DONE)
    job = read(session, lease.job_id)
    adapter = session.scalars(select(Adapter).where(Adapter.job_id == job.id)).one()
    assert (job.status, job.fine_tuned_model, job.trained_tokens) == ("succeeded", adapter.model, 7)
    files = [session.get_one(File, each) for each in job.result_files]
    assert [(file.filename, file.purpose) for file in files] == [
        ("metrics.csv", "fine-tune-results"),
        ("adapter.tar", "fine-tune-results"),
    ]
    assert (job.lease_owner, job.lease_token, job.lease_expires_at, job.phase) == (None, None, None, None)
    assert job.finished_at is not None
    assert count(session, FileHold) == 0
    assert attempt_row(session, lease).outcome == "succeeded"
    assert lifecycle.has_succeeded_in(session, lease)
    assert not lifecycle.has_succeeded_in(session, replace(lease, attempt=2))


def test_failure_keeps_reason_and_detail(session: Session, lease: Lease) -> None:
    lifecycle.fail(session, lease, BROKEN, AttemptRecord("refused", 10, "trace"))
    job = read(session, lease.job_id)
    assert (job.status, job.error_code, job.error_message, job.error_param) == (
        "failed",
        "internal_error",
        "It broke.",
        "training_file",
    )
    event = session.scalars(select(JobEvent).where(JobEvent.level == "error")).one()
    assert (event.message, event.data) == ("It broke.", {"line": 3})
    attempt = attempt_row(session, lease)
    assert (attempt.outcome, attempt.exit_code, attempt.log_tail) == ("refused", 10, "trace")
    assert count(session, FileHold) == 0


def test_requeue_costs_nothing_and_may_be_claimed_at_once(session: Session, lease: Lease) -> None:
    lifecycle.mark_dispatched(session, [lease.job_id])
    assert lifecycle.requeue(session, lease, AttemptRecord("stopped", 13)) == JobStatus.QUEUED
    job = read(session, lease.job_id)
    assert (job.lost_count, job.failed_count, job.dispatched_at, job.dispatch_count) == (0, 0, None, 0)
    assert count(session, FileHold) == 1
    assert claim(session, lease.job_id).attempt == 2


def test_losses_and_failures_are_counted_apart_until_used_up(session: Session, job_id: str) -> None:
    failed = AttemptRecord("failed", 1)
    assert lifecycle.retry(session, claim(session), BROKEN, LOST, policy=POLICY) == JobStatus.QUEUED
    assert lifecycle.retry(session, claim(session), BROKEN, failed, policy=POLICY) == JobStatus.QUEUED
    job = read(session, job_id)
    assert (job.lost_count, job.failed_count, job.error_code) == (1, 1, None)
    assert lifecycle.retry(session, claim(session), BROKEN, LOST, policy=POLICY) == JobStatus.FAILED
    job = read(session, job_id)
    assert (job.lost_count, job.failed_count, job.error_code) == (2, 1, "internal_error")


def test_retries_wait_longer_each_time(session: Session, lease: Lease) -> None:
    policy = replace(POLICY, max_lost=9, backoff_seconds=100)
    assert [policy.delay(number) for number in (1, 2, 3, 4, 9)] == [100, 200, 400, 600, 600]
    lifecycle.retry(session, lease, BROKEN, LOST, policy=policy)
    wait = cast(FineTuningJob.not_before - func.now(), Interval)
    assert session.scalars(select(wait).where(FineTuningJob.id == lease.job_id)).one() == timedelta(seconds=100)
    assert lifecycle.claim(session, worker="tester", lease_seconds=60) is None
