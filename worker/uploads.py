"""Puts files of a workspace into storage, safe against a collector that is just then deleting equal bytes."""

from collections.abc import Callable, Mapping
from pathlib import Path

from sqlalchemy.orm import Session

from app.jobs.publication import StoredFile
from app.storage import BlobNotFoundError, StoredBlob, blobs
from worker import patience
from worker.context import WorkerContext


def upload(context: WorkerContext, files: Mapping[str, Path], *, give_up: Callable[[], bool]) -> tuple[StoredFile, ...]:
    """Store ``files`` (name -> path) and record their blobs, committed, so that rows may refer to them.

    Raises:
        OSError: The file or the local store cannot be read or written.
        obstore.exceptions.BaseError: The object store refused.
        patience.GaveUpError: The database stayed away.
    """
    stored = {name: context.store.put_file(path) for name, path in files.items()}

    def record(session: Session) -> None:
        # One order for everybody: two uploads of the same bytes must not wait for each other.
        for blob in sorted(set(stored.values()), key=lambda blob: blob.sha256):
            blobs.record(session, blob)

    patience.commit(context.factory, record, give_up=give_up)
    for name, blob in stored.items():
        _put_again_if_collected(context, blob, files[name])
    return tuple(StoredFile(name, blob.sha256, blob.bytes) for name, blob in stored.items())


def _put_again_if_collected(context: WorkerContext, blob: StoredBlob, path: Path) -> None:
    """Equal bytes that were already stored may have been collected before their row was touched; never after."""
    try:
        context.store.size(blob.sha256)
    except BlobNotFoundError:
        context.store.put_file(path)
