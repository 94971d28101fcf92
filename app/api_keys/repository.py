"""Queries on projects and keys."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.pagination import PageQuery, fetch_after
from app.db.models import ApiKey, Project


def list_projects(session: Session, query: PageQuery) -> list[Project]:
    """Return one row beyond the page of projects, newest first."""
    return fetch_after(session, select(Project), Project.id, query)


def find_project(session: Session, project_id: str) -> Project | None:
    """Return the project, or None."""
    return session.get(Project, project_id)


def list_keys(session: Session, project_id: str, query: PageQuery) -> list[ApiKey]:
    """Return one row beyond the page of a project's keys that are not revoked, newest first."""
    statement = select(ApiKey).where(ApiKey.project_id == project_id, ApiKey.revoked_at.is_(None))
    return fetch_after(session, statement, ApiKey.id, query)


def find_key(session: Session, project_id: str, key_id: str) -> ApiKey | None:
    """Return a project's key that is not revoked, or None."""
    return session.scalars(
        select(ApiKey).where(ApiKey.id == key_id, ApiKey.project_id == project_id, ApiKey.revoked_at.is_(None))
    ).one_or_none()
