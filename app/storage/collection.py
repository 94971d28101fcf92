"""Garbage collection: blobs that nothing refers to, files that have expired, leftovers of killed uploads.

A blob goes when no file, artifact or stage names it and nobody stored it for the grace period. The decision is taken
again under the row's lock, which ``app.storage.blobs.record`` takes too, and the bytes go before the lock does: a
publisher either comes first and is seen, or comes after and finds row and bytes gone together.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.models import Artifact, Blob, File, FileHold, SaliencySnapshot, StagePart
from app.db.session import SessionFactory, transaction
from app.storage.store import BlobStore

_BATCH = 100


def collect(factory: SessionFactory, store: BlobStore, grace: float) -> int:
    """Delete up to a hundred blobs that are unreferenced and were last seen over ``grace`` seconds ago.

    Returns:
        How many were deleted. Call again while it is not 0.
    """
    with transaction(factory) as session:
        candidates = session.scalars(select(Blob.sha256).where(_is_garbage(grace)).limit(_BATCH)).all()
    return sum(_collect_one(factory, store, sha256, grace) for sha256 in candidates)


def remove_expired_files(factory: SessionFactory) -> int:
    """Delete the rows of files past their expiry, but for those that an unfinished job holds; return how many."""
    with transaction(factory) as session:
        is_held = exists().where(FileHold.file_id == File.id)
        due = select(File.id).where(File.expires_at <= func.now(), ~is_held).limit(_BATCH)
        locked = due.with_for_update(skip_locked=True)
        return len(session.execute(delete(File).where(File.id.in_(locked)).returning(File.id)).all())


def adopt_orphans(factory: SessionFactory, store: BlobStore, grace: float) -> int:
    """Give a row to every old blob that has none, so that ``collect`` finds it a grace period later; return how many.

    Orphans are what a process leaves that dies between storing a blob and committing its row. This lists the whole
    store, so run it daily rather than every few seconds. Also drops scratch files of the same age.
    """
    cutoff = datetime.now(UTC) - timedelta(seconds=grace)
    store.sweep_scratch(cutoff)
    adopted = 0
    for blob in store.list_older(cutoff):
        with transaction(factory) as session:
            row = insert(Blob).values(sha256=blob.sha256, bytes=blob.bytes).on_conflict_do_nothing()
            adopted += len(session.execute(row.returning(Blob.sha256)).all())
    return adopted


def _collect_one(factory: SessionFactory, store: BlobStore, sha256: str, grace: float) -> int:
    with transaction(factory) as session:
        if not _lock_garbage(session, sha256, grace):
            return 0
        store.delete(sha256)
        session.execute(delete(Blob).where(Blob.sha256 == sha256))
    return 1


def _lock_garbage(session: Session, sha256: str, grace: float) -> bool:
    row = session.scalars(select(Blob).where(Blob.sha256 == sha256).with_for_update(skip_locked=True)).one_or_none()
    # A second statement, because only its snapshot is sure to see what was committed before the lock was won.
    return row is not None and bool(session.scalar(select(exists().where(Blob.sha256 == sha256, _is_garbage(grace)))))


def _is_garbage(grace: float) -> ColumnElement[bool]:
    return and_(
        Blob.last_seen_at < func.now() - timedelta(seconds=grace),
        ~exists().where(File.sha256 == Blob.sha256),
        ~exists().where(Artifact.sha256 == Blob.sha256),
        ~exists().where(StagePart.sha256 == Blob.sha256),
        ~exists().where(SaliencySnapshot.sha256 == Blob.sha256),
    )
