"""One claim of a job by a worker, for the record."""

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, Timestamp


class JobAttempt(Base):
    """Written in the claim transaction, closed when the attempt ends or is reaped."""

    __tablename__ = "job_attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    started_at: Mapped[CreatedAt]
    ended_at: Mapped[Timestamp | None]
    outcome: Mapped[str | None]
    exit_code: Mapped[int | None]
    resume_step: Mapped[int | None]
    log_tail: Mapped[str | None]
