"""Routes of finished adapters and of their files."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.adapters import service
from app.adapters.schemas import AdapterRead
from app.core.pagination import Page
from app.core.schemas import Deleted
from app.dependencies import AdaptersReader, AdaptersWriter, DbSession, PageParams, Store
from app.storage import StoredBlob
from app.storage.responses import blob_response

router = APIRouter(tags=["adapters"])


@router.get("/v1/adapters")
def list_adapters(page: PageParams, key: AdaptersReader, session: DbSession) -> Page[AdapterRead]:
    """List finished adapters, newest first."""
    return service.list_adapters(session, key.project_id, page)


@router.get("/v1/adapters/{adapter_id}")
def get_adapter(adapter_id: str, key: AdaptersReader, session: DbSession) -> AdapterRead:
    """Return a finished adapter."""
    return service.get_adapter(session, key.project_id, adapter_id)


@router.delete("/v1/adapters/{adapter_id}")
def delete_adapter(adapter_id: str, key: AdaptersWriter, session: DbSession) -> Deleted:
    """Delete an adapter, its files and its tar; the job that made it stays readable."""
    service.delete_adapter(session, key.project_id, adapter_id)
    return Deleted(id=adapter_id, object="adapter")


@router.head("/v1/adapters/{adapter_id}/download", include_in_schema=False, response_class=Response)
@router.get("/v1/adapters/{adapter_id}/download", response_class=Response)
def download_adapter(
    adapter_id: str, request: Request, key: AdaptersReader, session: DbSession, store: Store
) -> Response:
    """Return all files in one tar; supports HEAD, one byte range, and conditional requests on the sha256 entity tag."""
    archive = service.get_archive(session, key.project_id, adapter_id)
    return blob_response(
        store,
        StoredBlob(archive.sha256, archive.bytes),
        method=request.method,
        headers=request.headers,
        filename=archive.filename,
        media_type="application/x-tar",
    )


@router.head("/v1/adapters/{adapter_id}/files/{name}", include_in_schema=False, response_class=Response)
@router.get("/v1/adapters/{adapter_id}/files/{name}", response_class=Response)
def download_file(
    adapter_id: str, name: str, request: Request, *, key: AdaptersReader, session: DbSession, store: Store
) -> Response:
    """Return one file of an adapter, with the same support for partial and conditional requests."""
    artifact = service.get_artifact(session, key.project_id, adapter_id, name)
    return blob_response(
        store,
        StoredBlob(artifact.sha256, artifact.bytes),
        method=request.method,
        headers=request.headers,
        filename=artifact.name,
    )
