"""A piece of a building stage's result, kept so that no job of the project makes it again."""

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt


class StagePart(Base):
    """``key`` is a digest of everything the stage's result depends on; parts of one key count from 0."""

    __tablename__ = "stage_parts"
    __table_args__ = (Index("ix_stage_parts_last_used_at", "last_used_at"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="RESTRICT"), primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    part: Mapped[int] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    created_at: Mapped[CreatedAt]
    last_used_at: Mapped[CreatedAt]
