"""Ownership of a running job: the lease, its fencing token and its renewal.

A worker owns an attempt while ``(id, attempt, lease_token, status = 'running')`` matches the row. That a lease has
run out permits a takeover but is none: a late renewal counts until somebody else has moved the job on.
"""

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, literal, select, update
from sqlalchemy.orm import Session

from app.db.base import Json
from app.db.models.fine_tuning_job import FineTuningJob, JobStatus


class LeaseLostError(Exception):
    """The row has moved on: the attempt must stop and leave no trace."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker holds after a claim; every later write is fenced by it. ``n_gpus`` is what the job wants."""

    job_id: str
    attempt: int
    token: uuid.UUID
    n_gpus: int = 1


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a renewal reports besides being alive; ``remaining_seconds`` is the estimated time to the end."""

    phase: str | None = None
    progress: Json | None = None
    remaining_seconds: float | None = None


def seconds_from_now(seconds: float) -> ColumnElement[Any]:
    """Return the database's clock plus ``seconds``."""
    return func.now() + literal(timedelta(seconds=seconds))


def owned_by(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which a row still belongs to ``lease``."""
    return (
        FineTuningJob.id == lease.job_id,
        FineTuningJob.attempt == lease.attempt,
        FineTuningJob.lease_token == lease.token,
        FineTuningJob.status == JobStatus.RUNNING,
    )


def lock(session: Session, lease: Lease) -> FineTuningJob:
    """Return the leased job, locked until the transaction ends.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    statement = select(FineTuningJob).where(*owned_by(lease)).with_for_update(key_share=True)
    job = session.scalar(statement.execution_options(populate_existing=True))
    if job is None:
        raise LeaseLostError(lease.job_id)
    return job


def renew(session: Session, lease: Lease, *, lease_seconds: float, heartbeat: Heartbeat | None = None) -> bool:
    """Extend the lease and report progress; return whether a cancel was requested.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    changes: dict[str, Any] = {"lease_expires_at": seconds_from_now(lease_seconds), "heartbeat_at": func.now()}
    if heartbeat is not None:
        remaining = heartbeat.remaining_seconds
        changes |= {
            "phase": heartbeat.phase,
            "progress": heartbeat.progress,
            "estimated_finish": None if remaining is None else seconds_from_now(remaining),
        }
    statement = (
        update(FineTuningJob)
        .where(*owned_by(lease))
        .values(changes)
        .returning(FineTuningJob.cancel_requested_at.is_not(None))
        .execution_options(synchronize_session=False)
    )
    cancel_requested = session.scalar(statement)
    if cancel_requested is None:
        raise LeaseLostError(lease.job_id)
    return cancel_requested
