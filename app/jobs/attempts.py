"""The end of an attempt: why, what is kept of it, and how often a job may try again."""

from dataclasses import dataclass
from typing import Self

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.core.settings import Settings
from app.db.base import Json
from app.db.models.job_attempt import JobAttempt
from app.jobs.leases import Lease

LONGEST_BACKOFF_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed, in words that its owner may read; ``data`` goes into the event."""

    code: str
    message: str
    param: str | None = None
    data: Json | None = None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """What is kept of an attempt that has ended: ``exit_code`` is negative for a signal."""

    outcome: str
    exit_code: int | None = None
    log_tail: str | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many bad ends a job survives and how long it waits after each."""

    max_lost: int
    max_failed: int
    backoff_seconds: float

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the operator's policy."""
        return cls(settings.max_lost_attempts, settings.max_failed_attempts, settings.retry_backoff_seconds)

    def delay(self, count: int) -> float:
        """Return the seconds to wait after the ``count``-th bad end."""
        return min(self.backoff_seconds * 2.0 ** (count - 1), LONGEST_BACKOFF_SECONDS)


def close(session: Session, lease: Lease, record: AttemptRecord) -> None:
    """Write ``record`` into the attempt's row."""
    statement = update(JobAttempt).where(JobAttempt.job_id == lease.job_id, JobAttempt.attempt == lease.attempt)
    session.execute(
        statement.values(
            ended_at=func.now(), outcome=record.outcome, exit_code=record.exit_code, log_tail=record.log_tail
        ).execution_options(synchronize_session=False)
    )
