"""Append-only history of a job, the source of the events endpoint."""

from sqlalchemy import BigInteger, ForeignKey, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, Json


class JobEvent(Base):
    """``sequence`` is allocated under the job's row lock, so one job's events never commit out of order."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job_id_sequence", "job_id", "sequence"),)

    sequence: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[Json | None]
    created_at: Mapped[CreatedAt]
