"""Rules of files. Every function that changes something commits before it returns."""

from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core import ids
from app.core.errors import ConflictError, NotFoundError
from app.db.models import File
from app.db.session import SessionFactory, transaction
from app.files import repository
from app.files.schemas import FilesQuery
from app.files.upload import Upload
from app.storage import BlobStore
from app.storage.blobs import record_present


def create_file(sessions: SessionFactory, store: BlobStore, project_id: str, upload: Upload) -> File:
    """Return the new file that names the stored bytes of ``upload``."""
    now = datetime.now(UTC)
    lifetime = timedelta(seconds=upload.expires_after.seconds) if upload.expires_after else None
    file = File(
        id=ids.new_id(ids.FILE),
        project_id=project_id,
        filename=upload.filename,
        purpose=upload.purpose,
        bytes=upload.blob.bytes,
        sha256=upload.blob.sha256,
        report=upload.report,
        created_at=now,
        expires_at=now + lifetime if lifetime else None,
    )
    with transaction(sessions) as session:
        record_present(session, store, upload.blob)
        session.add(file)
    return file


def get_file(session: Session, project_id: str, file_id: str) -> File:
    """Return the project's file.

    Raises:
        NotFoundError: The project has no such file, or it has expired.
    """
    file = repository.find_file(session, project_id, file_id)
    if file is None:
        raise NotFoundError(f"No such File object: {file_id}", param="id")
    return file


def list_files(session: Session, project_id: str, query: FilesQuery) -> list[File]:
    """Return one file beyond the page that ``query`` asks for."""
    return repository.list_files(session, project_id, query)


def delete_file(session: Session, project_id: str, file_id: str) -> None:
    """Delete the file; its bytes go when nothing else names them and they have aged.

    Raises:
        NotFoundError: The project has no such file.
        ConflictError: A job that has not ended needs the file.
    """
    get_file(session, project_id, file_id)
    try:
        repository.delete_file(session, file_id)
        session.commit()
    except IntegrityError as error:
        session.rollback()
        raise ConflictError(
            f"File {file_id} is in use by a fine-tuning job that has not ended; cancel the job or wait for it.",
            param="id",
            code="file_in_use",
        ) from error
