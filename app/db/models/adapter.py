"""A finished adapter: what a succeeded job produced."""

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, Json, PrimaryId, Timestamp


class Adapter(Base):
    """Named by ``model`` (``ft:{base}:{project}:{suffix}:{8 chars}``); its files are ``artifacts`` rows of this id.

    The unique ``job_id`` is the last line of defence against two results of one job.
    """

    __tablename__ = "adapters"
    __table_args__ = (Index("ix_adapters_project_id_id", "project_id", "id"),)

    id: Mapped[PrimaryId]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="RESTRICT"))
    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id", ondelete="RESTRICT"), unique=True)
    model: Mapped[str] = mapped_column(unique=True)
    base_model_id: Mapped[str] = mapped_column(ForeignKey("base_models.id", ondelete="RESTRICT"))
    base_model_digest: Mapped[str]
    metrics: Mapped[Json]
    created_at: Mapped[CreatedAt]
    deleted_at: Mapped[Timestamp | None]
