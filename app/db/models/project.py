"""A project: the wall between tenants."""

from sqlalchemy.orm import Mapped

from app.db.base import Base, CreatedAt, PrimaryId


class Project(Base):
    """Owner of keys, files, jobs and adapters; two projects never see each other's anything."""

    __tablename__ = "projects"

    id: Mapped[PrimaryId]
    name: Mapped[str]
    created_at: Mapped[CreatedAt]
