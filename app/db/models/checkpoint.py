"""A registered checkpoint of a job."""

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, Json, PrimaryId


class Checkpoint(Base):
    """Resumable state at an optimizer step; its files are ``artifacts`` rows owned by this id.

    ``resumable`` turns false once the files were pruned; the row and its metrics stay.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[PrimaryId]
    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    step: Mapped[int]
    metrics: Mapped[Json]
    resumable: Mapped[bool] = mapped_column(server_default="true")
    created_at: Mapped[CreatedAt]
