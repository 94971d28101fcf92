"""An uploaded dataset or a job's result file."""

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, Json, PrimaryId, Timestamp


class File(Base):
    """A named pointer to a blob. ``report`` holds what validation found (rows, format, warnings)."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_project_id_id", "project_id", "id"),)

    id: Mapped[PrimaryId]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="RESTRICT"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    report: Mapped[Json | None]
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[Timestamp | None]


class FileHold(Base):
    """Keeps an input file from being deleted while a job that needs it is not terminal."""

    __tablename__ = "file_holds"

    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True)
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="RESTRICT"), primary_key=True, index=True)
