"""Rows of the ``blobs`` table: what garbage collection goes by."""

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.errors import UnavailableError
from app.db.models import Blob
from app.storage.store import BlobNotFoundError, BlobStore, StoredBlob


def record(session: Session, blob: StoredBlob) -> None:
    """Note that ``blob`` is in use, before a row of this transaction refers to it.

    The row stays locked until the transaction ends, and is fresh afterwards, so a collector leaves the blob alone from
    here on. A collector may have been quicker: see ``record_present``.
    """
    row = insert(Blob).values(sha256=blob.sha256, bytes=blob.bytes)
    session.execute(row.on_conflict_do_update(index_elements=[Blob.sha256], set_={"last_seen_at": func.now()}))


def record_present(session: Session, store: BlobStore, blob: StoredBlob) -> None:
    """Like ``record``, and make sure that the bytes are still there.

    A publisher that found equal bytes already stored wrote none; if they were unreferenced and aged, a collector may
    have deleted them before this call took the row's lock. Storing once more mends it.

    Raises:
        UnavailableError: That happened.
    """
    record(session, blob)
    try:
        store.size(blob.sha256)
    except BlobNotFoundError as error:
        raise UnavailableError("The file's stored copy was being cleaned up; send it again.") from error
