"""Queries about adapters and their files. A deleted adapter is never found."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.core.pagination import PageQuery, fetch_after
from app.db.models.adapter import Adapter
from app.db.models.artifact import Artifact
from app.db.models.file import File
from app.db.models.fine_tuning_job import FineTuningJob


def find_adapter(session: Session, project_id: str, adapter_id: str, *, for_update: bool = False) -> Adapter | None:
    """Return the project's adapter, locked if asked to."""
    statement = _live(project_id).where(Adapter.id == adapter_id)
    return session.scalar(statement.with_for_update() if for_update else statement)


def list_adapters(session: Session, project_id: str, query: PageQuery) -> list[Adapter]:
    """Return the project's adapters, newest first, with one beyond the page."""
    return fetch_after(session, _live(project_id), Adapter.id, query)


def sum_bytes(session: Session, adapter_ids: Iterable[str]) -> Mapping[str, int]:
    """Return the bytes of all files of each adapter; one without files is absent."""
    statement = (
        select(Artifact.owner_id, func.sum(Artifact.bytes))
        .where(Artifact.owner_id.in_(list(adapter_ids)))
        .group_by(Artifact.owner_id)
    )
    return {owner: int(total) for owner, total in session.execute(statement)}


def list_artifacts(session: Session, adapter_id: str) -> Sequence[Artifact]:
    """Return the files of an adapter, sorted by name."""
    return session.scalars(select(Artifact).where(Artifact.owner_id == adapter_id).order_by(Artifact.name)).all()


def list_job_artifacts(session: Session, job_id: str) -> Sequence[Artifact]:
    """Return the files of the adapter that a job made, sorted by name; none once it was deleted."""
    statement = select(Artifact).join(Adapter, Artifact.owner_id == Adapter.id)
    live = statement.where(Adapter.job_id == job_id, Adapter.deleted_at.is_(None))
    return session.scalars(live.order_by(Artifact.name)).all()


def find_artifact(session: Session, adapter_id: str, name: str) -> Artifact | None:
    """Return one file of an adapter."""
    return session.get(Artifact, (adapter_id, name))


def find_archive(session: Session, adapter: Adapter) -> File | None:
    """Return the tar of an adapter: the second result file of its job, unless the project has deleted it."""
    statement = (
        select(File)
        .join(FineTuningJob, File.id == FineTuningJob.result_files[2])
        .where(FineTuningJob.id == adapter.job_id, File.project_id == adapter.project_id)
    )
    return session.scalar(statement)


def _live(project_id: str) -> Select[Adapter]:
    return select(Adapter).where(Adapter.project_id == project_id, Adapter.deleted_at.is_(None))
