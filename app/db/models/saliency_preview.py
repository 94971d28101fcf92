"""A saliency preview that somebody waits for: request, lease and answer, gone once the answer was sent."""

import uuid

from sqlalchemy import ForeignKey, Index, LargeBinary, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, Json, PrimaryId, Timestamp


class SaliencyPreview(Base):
    """Waits until it is claimed, runs while a lease is held, is finished once ``finished_at`` is set.

    ``wanted_until`` is moved on by whoever waits for the answer; a preview that nobody wants is not worked on, and its
    row is swept. ``attempt`` and ``lease_token`` fence every write of a worker. ``request`` and ``answer`` are JSON
    text as bytes; ``error`` tells why there is no answer.
    """

    __tablename__ = "saliency_previews"
    __table_args__ = (
        Index("ix_saliency_previews_created_at", "created_at", postgresql_where=text("finished_at IS NULL")),
        Index("ix_saliency_previews_project_id", "project_id"),
    )

    id: Mapped[PrimaryId]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    adapter_id: Mapped[str | None]
    request: Mapped[bytes] = mapped_column(LargeBinary)
    wanted_until: Mapped[Timestamp]
    attempt: Mapped[int] = mapped_column(server_default="0")
    lease_token: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    lease_expires_at: Mapped[Timestamp | None]
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    error: Mapped[Json | None]
    created_at: Mapped[CreatedAt]
    started_at: Mapped[Timestamp | None]
    finished_at: Mapped[Timestamp | None]
