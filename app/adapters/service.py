"""What the adapter routes do. An adapter is the unit of deletion: its files and its tar go with it."""

from sqlalchemy.orm import Session

from app.adapters import repository
from app.adapters.schemas import AdapterRead, ArtifactList, ArtifactRead
from app.core.errors import NotFoundError
from app.core.pagination import Page, PageQuery, build_page
from app.db.models.adapter import Adapter
from app.db.models.artifact import Artifact
from app.db.models.file import File
from app.storage.release import release_adapter


def list_adapters(session: Session, project_id: str, query: PageQuery) -> Page[AdapterRead]:
    """Return a page of the project's adapters, newest first."""
    adapters = repository.list_adapters(session, project_id, query)
    sizes = repository.sum_bytes(session, [adapter.id for adapter in adapters])
    shown = [_read_adapter(adapter, sizes.get(adapter.id, 0)) for adapter in adapters]
    return build_page(shown, limit=query.limit)


def get_adapter(session: Session, project_id: str, adapter_id: str) -> AdapterRead:
    """Return an adapter of the project.

    Raises:
        NotFoundError: The project has no such adapter, or it was deleted.
    """
    adapter = _require_adapter(session, project_id, adapter_id)
    return _read_adapter(adapter, repository.sum_bytes(session, [adapter.id]).get(adapter.id, 0))


def list_job_artifacts(session: Session, job_id: str) -> ArtifactList:
    """Return the files of the adapter that a job of the caller's project made; none before it has succeeded."""
    rows = repository.list_job_artifacts(session, job_id)
    return ArtifactList(data=[_read_artifact(artifact) for artifact in rows])


def get_artifact(session: Session, project_id: str, adapter_id: str, name: str) -> Artifact:
    """Return one file of an adapter; ``name`` is looked up, never joined to a path.

    Raises:
        NotFoundError: There is no such adapter or it has no such file.
    """
    adapter = _require_adapter(session, project_id, adapter_id)
    artifact = repository.find_artifact(session, adapter.id, name)
    if artifact is None:
        known = ", ".join(row.name for row in repository.list_artifacts(session, adapter.id))
        raise NotFoundError(f"Adapter '{adapter_id}' has no file '{name}'. It has: {known}.", param="name")
    return artifact


def get_archive(session: Session, project_id: str, adapter_id: str) -> File:
    """Return the tar of an adapter.

    Raises:
        NotFoundError: There is no such adapter, or the project has deleted the tar among its files.
    """
    adapter = _require_adapter(session, project_id, adapter_id)
    archive = repository.find_archive(session, adapter)
    if archive is None:
        message = f"The tar of adapter '{adapter_id}' was deleted; its single files are below '/files/'."
        raise NotFoundError(message, param="adapter_id", code="archive_deleted")
    return archive


def delete_adapter(session: Session, project_id: str, adapter_id: str) -> None:
    """Delete an adapter, its files and its tar; the job that made it stays.

    Raises:
        NotFoundError: There is no such adapter.
    """
    adapter = repository.find_adapter(session, project_id, adapter_id, for_update=True)
    if adapter is None:
        raise _not_found(adapter_id)
    release_adapter(session, adapter)
    session.commit()


def _require_adapter(session: Session, project_id: str, adapter_id: str) -> Adapter:
    adapter = repository.find_adapter(session, project_id, adapter_id)
    if adapter is None:
        raise _not_found(adapter_id)
    return adapter


def _not_found(adapter_id: str) -> NotFoundError:
    return NotFoundError(f"No adapter '{adapter_id}' in this project.", param="adapter_id")


def _read_adapter(adapter: Adapter, size: int) -> AdapterRead:
    return AdapterRead.model_validate(
        {
            "id": adapter.id,
            "created_at": adapter.created_at,
            "model": adapter.model,
            "base_model": adapter.base_model_id,
            "base_model_digest": adapter.base_model_digest,
            "fine_tuning_job_id": adapter.job_id,
            "metrics": adapter.metrics,
            "bytes": size,
        }
    )


def _read_artifact(artifact: Artifact) -> ArtifactRead:
    return ArtifactRead(
        name=artifact.name,
        bytes=artifact.bytes,
        sha256=artifact.sha256,
        url=f"/v1/adapters/{artifact.owner_id}/files/{artifact.name}",
    )
