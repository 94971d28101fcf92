"""Queries on files. A file that has expired is gone for every reader, also before it is swept away."""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, any_, bindparam, delete, func, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Session

from app.core.pagination import fetch_after
from app.db.models import File
from app.files.schemas import FilesQuery


def find_file(session: Session, project_id: str, file_id: str) -> File | None:
    """Return the project's file, or None."""
    statement = select(File).where(File.id == file_id, File.project_id == project_id, _is_live())
    return session.scalars(statement).one_or_none()


def keep_files(session: Session, project_ids: Collection[str], file_ids: Collection[str]) -> Sequence[File]:
    """Return those of the files that the projects have; locked against deletion until the transaction ends."""
    return session.scalars(_KEPT, {"projects": list(project_ids), "files": list(file_ids)}).all()


def list_files(session: Session, project_id: str, query: FilesQuery) -> list[File]:
    """Return one row beyond the page."""
    statement = select(File).where(File.project_id == project_id, _is_live())
    if query.purpose is not None:
        statement = statement.where(File.purpose == query.purpose)
    return fetch_after(session, statement, File.id, query, descending=query.order == "desc")


def delete_file(session: Session, file_id: str) -> None:
    """Delete the row; the foreign key of a hold refuses with an IntegrityError."""
    session.execute(delete(File).where(File.id == file_id))


def _is_live() -> ColumnElement[bool]:
    return or_(File.expires_at.is_(None), File.expires_at > func.now())


_KEPT = (
    select(File)
    .where(
        File.id == any_(bindparam("files", type_=ARRAY(TEXT))),
        File.project_id == any_(bindparam("projects", type_=ARRAY(TEXT))),
        _is_live(),
    )
    .order_by(File.id)
    .with_for_update(read=True, key_share=True)
)
