"""Routes of files."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from app.core.pagination import Page, build_page
from app.core.schemas import Deleted
from app.dependencies import DbSession, FilesReader, FilesWriter, RequestSettings, Sessions, Store
from app.files import service
from app.files.schemas import FileObject, FilesQuery
from app.files.upload import UploadReceiver, receive_upload
from app.storage import StoredBlob
from app.storage.responses import blob_response

router = APIRouter(tags=["files"])

_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string"},
                        "expires_after[anchor]": {"type": "string"},
                        "expires_after[seconds]": {"type": "integer"},
                    },
                }
            }
        },
    }
}


@router.post("/v1/files", openapi_extra=_UPLOAD_BODY)
async def upload_file(
    request: Request, key: FilesWriter, sessions: Sessions, store: Store, settings: RequestSettings
) -> FileObject:
    """Upload a file. With purpose ``fine-tune`` every row is checked; a bad file is refused with its bad lines."""
    receiver = UploadReceiver(request.headers.get("content-type", ""), store, settings)
    upload = await receive_upload(request.stream(), receiver)
    file = await run_in_threadpool(service.create_file, sessions, store, key.project_id, upload)
    return FileObject.model_validate(file)


@router.get("/v1/files")
def list_files(key: FilesReader, session: DbSession, query: Annotated[FilesQuery, Query()]) -> Page[FileObject]:
    """List the project's files; their reports leave the single warnings out."""
    files = service.list_files(session, key.project_id, query)
    return build_page([FileObject.model_validate(file).without_warnings() for file in files], limit=query.limit)


@router.get("/v1/files/{file_id}")
def get_file(file_id: str, key: FilesReader, session: DbSession) -> FileObject:
    """Return one file's description."""
    return FileObject.model_validate(service.get_file(session, key.project_id, file_id))


@router.delete("/v1/files/{file_id}")
def delete_file(file_id: str, key: FilesWriter, session: DbSession) -> Deleted:
    """Delete a file that no unfinished job needs."""
    service.delete_file(session, key.project_id, file_id)
    return Deleted(id=file_id, object="file")


@router.head("/v1/files/{file_id}/content", include_in_schema=False, response_class=Response)
@router.get("/v1/files/{file_id}/content", response_class=Response)
def download_file(file_id: str, request: Request, key: FilesReader, session: DbSession, store: Store) -> Response:
    """Return the file's bytes; supports HEAD, one byte range, and conditional requests on the sha256 entity tag."""
    file = service.get_file(session, key.project_id, file_id)
    return blob_response(
        store,
        StoredBlob(file.sha256, file.bytes),
        method=request.method,
        headers=request.headers,
        filename=file.filename,
    )
