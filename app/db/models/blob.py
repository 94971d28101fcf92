"""Bookkeeping of content-addressed storage, for garbage collection."""

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt


class Blob(Base):
    """One stored object, named by its sha256; deleted when nothing refers to it and it has aged."""

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[CreatedAt]
    last_seen_at: Mapped[CreatedAt]
