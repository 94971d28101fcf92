"""The only writer of a job's ``status``: what may follow what, and who may do it.

    queued ──claim──> running ──succeed──> succeeded
      │  ^               ├──────fail─────> failed
      │  └─requeue/retry─┤  reap: queued, failed or cancelled
      └─request_cancel───┴───cancelled──> cancelled

Every change is one UPDATE guarded by the state it starts from (and by attempt and lease token where a worker makes
it), together with an event in the same transaction. Callers commit. Only the database's clock is used.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, literal, select, text, update
from sqlalchemy.orm import Session

from app.core.errors import ConflictError, NotFoundError
from app.db.base import Json
from app.db.models.file import FileHold
from app.db.models.fine_tuning_job import TERMINAL, FineTuningJob, JobStatus
from app.db.models.job_attempt import JobAttempt
from app.jobs import attempts, leases, publication
from app.jobs.attempts import AttemptRecord, JobError, RetryPolicy
from app.jobs.claims import Room, may_share_with, next_eligible
from app.jobs.dispatch import mark_dispatched
from app.jobs.events import add_first_events, append_event
from app.jobs.leases import Lease, LeaseLostError, renew, seconds_from_now
from app.jobs.publication import JobResult

__all__ = [
    "TRANSITIONS",
    "AttemptRecord",
    "JobError",
    "JobResult",
    "Lease",
    "LeaseLostError",
    "RetryPolicy",
    "Room",
    "append_event",
    "cancelled",
    "claim",
    "fail",
    "has_succeeded_in",
    "mark_dispatched",
    "reap",
    "renew",
    "request_cancel",
    "requeue",
    "retry",
    "submit",
    "succeed",
]

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

_ONE_DEVICE = Room()
_NOW = text("SELECT now()")


def submit(session: Session, jobs: Sequence[FineTuningJob]) -> None:
    """Insert queued jobs and hold their input files."""
    now = session.scalars(_NOW).one()
    for job in jobs:
        job.status, job.created_at, job.attempt, job.result_files = JobStatus.QUEUED, now, 0, []
        job.dispatched_at = None
    session.add_all(jobs)
    session.flush()
    for job in jobs:
        file_ids = {job.training_file_id, job.validation_file_id} - {None}
        session.add_all(FileHold(job_id=job.id, file_id=file_id) for file_id in sorted(filter(None, file_ids)))
    session.flush()
    add_first_events(session, {job.id: _settings(job) for job in jobs})


def _running_seconds(session: Session, job: FineTuningJob) -> float:
    since = func.extract("epoch", func.clock_timestamp() - FineTuningJob.started_at)
    return round(float(session.scalars(select(since).where(FineTuningJob.id == job.id)).one()), 3)


def _settings(job: FineTuningJob) -> Json:
    return {"hyperparameters": job.spec["hyperparameters"], "auto": job.auto or {}}


def request_cancel(session: Session, project_id: str, job_id: str) -> FineTuningJob:
    """Cancel a queued job at once, mark a running one for its worker.

    Raises:
        NotFoundError: The project has no such job.
        ConflictError: The job is already terminal.
    """
    mine = (FineTuningJob.id == job_id, FineTuningJob.project_id == project_id)
    locked = select(FineTuningJob).where(*mine).with_for_update(key_share=True)
    job = session.scalar(locked.execution_options(populate_existing=True))
    if job is None:
        raise NotFoundError(f"No fine-tuning job '{job_id}' in this project.", param="fine_tuning_job_id")
    if job.status in TERMINAL:
        raise ConflictError(f"Fine-tuning job '{job_id}' has already {job.status}.", code="job_already_terminal")
    if job.status == JobStatus.QUEUED:
        _move(session, JobStatus.QUEUED, JobStatus.CANCELLED, mine, {"cancel_requested_at": func.now()})
        append_event(session, job_id, attempt=job.attempt, level="info", message="Fine-tuning job cancelled.")
    elif job.cancel_requested_at is None:
        job.cancel_requested_at = session.scalar(select(func.now()))
        append_event(session, job_id, attempt=job.attempt, level="info", message="Cancellation requested.")
    return job


def claim(
    session: Session,
    *,
    worker: str,
    lease_seconds: float,
    hint: str | None = None,
    room: Room = _ONE_DEVICE,
    beside: Lease | None = None,
) -> Lease | None:
    """Take the hinted job if it can be claimed, else the next eligible one; return None when there is none.

    Next is: highest priority, then the project with the fewest running jobs, then the oldest. When that one wants more
    devices than ``room`` has free, or may not share the trainer of ``beside``, none is taken: see ``claims``.
    """
    changes = {
        "attempt": FineTuningJob.attempt + 1,
        "lease_owner": worker,
        "lease_token": uuid.uuid4(),
        "lease_expires_at": seconds_from_now(lease_seconds),
        "heartbeat_at": func.now(),
        "started_at": func.coalesce(FineTuningJob.started_at, func.now()),
        "phase": "preparing",
    }
    fits = FineTuningJob.n_gpus <= room.free if beside is None else may_share_with(beside)
    eligible = (FineTuningJob.id == next_eligible(hint, room), fits)
    job = _move(session, JobStatus.QUEUED, JobStatus.RUNNING, eligible, changes)
    if job is None or job.lease_token is None:
        return None
    session.add(JobAttempt(job_id=job.id, attempt=job.attempt, worker=worker))
    message = "Fine-tuning job started." if job.attempt == 1 else f"Fine-tuning job restarted (attempt {job.attempt})."
    append_event(session, job.id, attempt=job.attempt, level="info", message=message)
    return Lease(job.id, job.attempt, job.lease_token, job.n_gpus)


def succeed(session: Session, lease: Lease, result: JobResult, record: AttemptRecord) -> bool:
    """Make the result visible; return False when a cancel was requested first (nothing is written then).

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    job = leases.lock(session, lease)
    if job.cancel_requested_at is not None:
        return False
    published = publication.add_result(session, job, result)
    changes = {
        "fine_tuned_model": published.model,
        "result_files": list(published.file_ids),
        "built_file_id": published.built_file_id,
        "trained_tokens": result.trained_tokens,
        "outcome": {**result.outcome, "attempts": job.attempt, "wall_seconds": _running_seconds(session, job)},
    }
    _end(session, lease, JobStatus.SUCCEEDED, record, changes)
    message = f"The job has successfully completed: {published.model}"
    append_event(session, job.id, attempt=job.attempt, level="info", message=message)
    return True


def has_succeeded_in(session: Session, lease: Lease) -> bool:
    """Return whether this very attempt has published: its commit worked and only the reply was lost."""
    mine = (FineTuningJob.id == lease.job_id, FineTuningJob.attempt == lease.attempt)
    found = select(FineTuningJob.id).where(*mine, FineTuningJob.status == JobStatus.SUCCEEDED)
    return session.scalar(found) is not None


def fail(session: Session, lease: Lease, error: JobError, record: AttemptRecord) -> None:
    """End the job for good.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    _fail(session, lease, error, record, {})


def _fail(session: Session, lease: Lease, error: JobError, record: AttemptRecord, counted: Mapping[str, Any]) -> None:
    reason = {"error_code": error.code, "error_message": error.message, "error_param": error.param}
    _end(session, lease, JobStatus.FAILED, record, {**counted, **reason})
    append_event(session, lease.job_id, attempt=lease.attempt, level="error", message=error.message, data=error.data)


def cancelled(session: Session, lease: Lease, record: AttemptRecord) -> None:
    """Confirm a cancel once the attempt's processes are dead.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    _end(session, lease, JobStatus.CANCELLED, record, {})
    append_event(session, lease.job_id, attempt=lease.attempt, level="info", message="Fine-tuning job cancelled.")


def requeue(session: Session, lease: Lease, record: AttemptRecord, *, delay_seconds: float = 0.0) -> JobStatus:
    """Give the job back uncounted (the worker is going away), or confirm a cancel that was requested meanwhile.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    job = leases.lock(session, lease)
    if job.cancel_requested_at is not None:
        cancelled(session, lease, record)
        return JobStatus.CANCELLED
    _end(session, lease, JobStatus.QUEUED, record, _queued_again(delay_seconds))
    message = "Training was interrupted and will continue on another worker."
    append_event(session, lease.job_id, attempt=lease.attempt, level="info", message=message)
    return JobStatus.QUEUED


def retry(session: Session, lease: Lease, error: JobError, record: AttemptRecord, *, policy: RetryPolicy) -> JobStatus:
    """Count a bad end and queue the job again, or fail it with ``error`` when its allowance is used up.

    An outcome ``failed`` counts against ``policy.max_failed``, any other against ``policy.max_lost``.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    job = leases.lock(session, lease)
    if job.cancel_requested_at is not None:
        cancelled(session, lease, record)
        return JobStatus.CANCELLED
    if record.outcome == "failed":
        count = job.failed_count + 1
        counted, spent = {"failed_count": count}, count >= policy.max_failed
    else:
        count = job.lost_count + 1
        counted, spent = {"lost_count": count}, count > policy.max_lost
    if spent:
        _fail(session, lease, error, record, counted)
        return JobStatus.FAILED
    _end(session, lease, JobStatus.QUEUED, record, counted | _queued_again(policy.delay(count)))
    message = f"Attempt {lease.attempt} was lost and will be repeated: {error.message}"
    append_event(session, lease.job_id, attempt=lease.attempt, level="warn", message=message)
    return JobStatus.QUEUED


def reap(session: Session, *, policy: RetryPolicy, lease_seconds: float, limit: int = 50) -> list[str]:
    """Take up to ``limit`` jobs from workers that fell silent; return their ids.

    After a database start no lease ends before one full lease has passed: an outage is nobody's loss.
    """
    after_start = func.pg_postmaster_start_time() + literal(timedelta(seconds=lease_seconds))
    deadline = func.greatest(FineTuningJob.lease_expires_at, after_start)
    statement = (
        select(FineTuningJob)
        .where(FineTuningJob.status == JobStatus.RUNNING, deadline < func.now())
        .order_by(FineTuningJob.lease_expires_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    error = JobError("worker_lost", "The worker that ran the job stopped answering.")
    silent = session.scalars(statement.execution_options(populate_existing=True)).all()
    for job in silent:
        lease = Lease(job.id, job.attempt, job.lease_token or uuid.UUID(int=0))
        retry(session, lease, error, AttemptRecord("lost"), policy=policy)
    return [job.id for job in silent]


def _end(session: Session, lease: Lease, target: JobStatus, record: AttemptRecord, changes: Mapping[str, Any]) -> None:
    if _move(session, JobStatus.RUNNING, target, leases.owned_by(lease), changes) is None:
        raise LeaseLostError(lease.job_id)
    attempts.close(session, lease, record)


def _move(
    session: Session,
    source: JobStatus,
    target: JobStatus,
    guards: Sequence[ColumnElement[bool]],
    changes: Mapping[str, Any],
) -> FineTuningJob | None:
    if target not in TRANSITIONS[source]:
        raise ValueError(f"{source} -> {target} is no transition")
    values: dict[str, Any] = {**changes, "status": target}
    if source is JobStatus.RUNNING:
        values |= dict.fromkeys(("lease_owner", "lease_token", "lease_expires_at", "phase", "estimated_finish"))
    if target in TERMINAL:
        values["finished_at"] = func.now()
    statement = update(FineTuningJob).where(FineTuningJob.status == source, *guards).values(values)
    options = {"synchronize_session": False, "populate_existing": True}
    job = session.scalars(statement.returning(FineTuningJob).execution_options(**options)).one_or_none()
    if job is not None and target in TERMINAL:
        session.execute(delete(FileHold).where(FileHold.job_id == job.id))
    return job


def _queued_again(delay_seconds: float) -> dict[str, Any]:
    return {"not_before": seconds_from_now(delay_seconds), "dispatched_at": None, "dispatch_count": 0}
