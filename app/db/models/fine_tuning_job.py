"""A fine-tuning job: the row is the outbox, the lease and the record."""

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, DateTime, ForeignKey, Index, Text, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, Json, PrimaryId, Timestamp


class JobStatus(StrEnum):
    """Where a job stands; the last three are terminal and never change again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobPhase(StrEnum):
    """What a running attempt is doing."""

    PREPARING = "preparing"
    ROLLOUT = "rollout"
    GRADING = "grading"
    RATIONALIZATION = "rationalization"
    REGRADING = "regrading"
    JUDGING = "judging"
    SCORING = "scoring"
    TRAINING = "training"
    EVALUATING = "evaluating"
    EXPLAINING = "explaining"
    SAVING = "saving"
    PUBLISHING = "publishing"


TERMINAL = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class FineTuningJob(Base):
    """One requested run. ``status`` is written by ``app.jobs.lifecycle`` alone.

    ``spec`` is the frozen, resolved training spec (``worker.training.spec.TrainingSpec``) without file paths.
    ``auto`` says why a value was chosen; ``prediction`` and ``outcome`` hold the same figures before and after.
    ``attempt`` and ``lease_token`` fence every write of a worker; only the database clock is used for leases.
    """

    __tablename__ = "fine_tuning_jobs"
    __table_args__ = (
        CheckConstraint("status IN ('queued','running','succeeded','failed','cancelled')", name="status_known"),
        CheckConstraint(
            "(status = 'running') = "
            "(lease_owner IS NOT NULL AND lease_token IS NOT NULL AND lease_expires_at IS NOT NULL)",
            name="running_has_lease",
        ),
        CheckConstraint("status <> 'succeeded' OR fine_tuned_model IS NOT NULL", name="succeeded_has_result"),
        CheckConstraint(
            "(status IN ('succeeded','failed','cancelled')) = (finished_at IS NOT NULL)", name="terminal_has_end"
        ),
        Index(
            "ix_fine_tuning_jobs_claim", text("priority DESC"), "created_at", postgresql_where=text("status = 'queued'")
        ),
        Index("ix_fine_tuning_jobs_lease", "lease_expires_at", postgresql_where=text("status = 'running'")),
        Index("ix_fine_tuning_jobs_project_id_id", "project_id", "id"),
        Index("ix_fine_tuning_jobs_queued", "project_id", postgresql_where=text("status = 'queued'")),
        Index(
            "ix_fine_tuning_jobs_outcome",
            "base_model_id",
            "id",
            postgresql_where=text("status = 'succeeded' AND outcome IS NOT NULL"),
        ),
    )
    # Reading defaults back would make an insert of many rows one long statement, which costs four times as much.
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 - read by SQLAlchemy on the class

    id: Mapped[PrimaryId]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="RESTRICT"))
    model: Mapped[str]
    base_model_id: Mapped[str] = mapped_column(ForeignKey("base_models.id", ondelete="RESTRICT"))
    training_file_id: Mapped[str]
    validation_file_id: Mapped[str | None]
    suffix: Mapped[str | None]
    seed: Mapped[int]
    job_metadata: Mapped[Json | None] = mapped_column("metadata")
    method: Mapped[Json]
    integrations: Mapped[list[Json] | None]
    spec: Mapped[Json]
    auto: Mapped[Json | None]
    prediction: Mapped[Json | None]
    outcome: Mapped[Json | None]
    request_digest: Mapped[str] = mapped_column(index=True)
    request_retry_count: Mapped[int] = mapped_column(server_default="0")

    status: Mapped[str] = mapped_column(server_default=JobStatus.QUEUED)
    phase: Mapped[str | None]
    progress: Mapped[Json | None]
    priority: Mapped[int] = mapped_column(server_default="0")
    n_gpus: Mapped[int] = mapped_column(server_default="1")

    attempt: Mapped[int] = mapped_column(server_default="0")
    lost_count: Mapped[int] = mapped_column(server_default="0")
    failed_count: Mapped[int] = mapped_column(server_default="0")
    lease_owner: Mapped[str | None]
    lease_token: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    lease_expires_at: Mapped[Timestamp | None]
    heartbeat_at: Mapped[Timestamp | None]
    cancel_requested_at: Mapped[Timestamp | None]
    not_before: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
    dispatched_at: Mapped[Timestamp | None]
    dispatch_count: Mapped[int] = mapped_column(server_default="0")

    fine_tuned_model: Mapped[str | None] = mapped_column(unique=True)
    result_files: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    built_file_id: Mapped[str | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_param: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    started_at: Mapped[Timestamp | None]
    finished_at: Mapped[Timestamp | None]
    estimated_finish: Mapped[Timestamp | None]

    @property
    def base_model_digest(self) -> str:
        """Hexadecimal sha256 that pins the base model's files."""
        digest: str = self.spec["base_model"]["digest"]
        return digest
