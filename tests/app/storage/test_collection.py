"""Garbage collection: what goes, what stays, and who wins a race."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.core import ids
from app.core.errors import UnavailableError
from app.db.models import Blob, File, FileHold
from app.db.session import SessionFactory
from app.storage import BlobNotFoundError, BlobStore, StoredBlob
from app.storage.blobs import record, record_present
from app.storage.collection import adopt_orphans, collect, remove_expired_files
from tests.app.files.test_files import hold
from tests.fixtures.api import Tenant

GRACE = 3600.0


@pytest.fixture
def disk(tmp_path: Path) -> BlobStore:
    return BlobStore.from_url(f"file://{tmp_path}/blobs")


def keep(session: Session, store: BlobStore, content: bytes, *, age: float) -> StoredBlob:
    """Store a blob that was last seen ``age`` seconds ago."""
    blob = store.put_bytes(content)
    record(session, blob)
    seen = datetime.now(UTC) - timedelta(seconds=age)
    session.execute(update(Blob).where(Blob.sha256 == blob.sha256).values(last_seen_at=seen))
    session.commit()
    return blob


def add_file(session: Session, tenant: Tenant, blob: StoredBlob, expires_at: datetime | None = None) -> str:
    file_id = ids.new_id(ids.FILE)
    session.add(
        File(
            id=file_id,
            project_id=tenant.project_id,
            filename="f",
            purpose="batch",
            bytes=blob.bytes,
            sha256=blob.sha256,
            expires_at=expires_at,
        )
    )
    session.commit()
    return file_id


def is_stored(store: BlobStore, blob: StoredBlob) -> bool:
    try:
        return store.size(blob.sha256) == blob.bytes
    except BlobNotFoundError:
        return False


def test_only_old_unreferenced_blobs_go(
    session_factory: SessionFactory, session: Session, disk: BlobStore, tenant: Tenant
) -> None:
    old = keep(session, disk, b"old", age=2 * GRACE)
    young = keep(session, disk, b"young", age=0)
    used = keep(session, disk, b"used", age=2 * GRACE)
    add_file(session, tenant, used)
    assert collect(session_factory, disk, GRACE) == 1
    assert [is_stored(disk, blob) for blob in (old, young, used)] == [False, True, True]
    session.expire_all()
    assert session.get(Blob, old.sha256) is None
    assert collect(session_factory, disk, GRACE) == 0


def test_a_blob_whose_bytes_are_gone_already_loses_its_row(
    session_factory: SessionFactory, session: Session, disk: BlobStore
) -> None:
    blob = keep(session, disk, b"old", age=2 * GRACE)
    disk.delete(blob.sha256)
    assert collect(session_factory, disk, GRACE) == 1


def test_a_publisher_that_is_not_done_yet_keeps_its_blob(
    session_factory: SessionFactory, session: Session, disk: BlobStore
) -> None:
    blob = keep(session, disk, b"old", age=2 * GRACE)
    record(session, blob)
    assert collect(session_factory, disk, GRACE) == 0
    session.commit()
    assert collect(session_factory, disk, GRACE) == 0
    assert is_stored(disk, blob)


def test_a_publisher_that_comes_too_late_is_told_to_store_again(
    session_factory: SessionFactory, session: Session, disk: BlobStore
) -> None:
    blob = keep(session, disk, b"old", age=2 * GRACE)
    assert disk.put_bytes(b"old") == blob
    assert collect(session_factory, disk, GRACE) == 1
    with pytest.raises(UnavailableError, match="send it again"):
        record_present(session, disk, blob)
    session.rollback()
    record_present(session, disk, disk.put_bytes(b"old"))
    session.commit()
    assert is_stored(disk, blob)


def test_publishers_and_collectors_at_once_never_leave_a_row_without_bytes(
    session_factory: SessionFactory, disk: BlobStore
) -> None:
    stop = threading.Event()

    def collect_always() -> None:
        while not stop.is_set():
            collect(session_factory, disk, 0.0)

    collectors = [threading.Thread(target=collect_always) for _ in range(2)]
    for thread in collectors:
        thread.start()
    try:
        for _ in range(60):
            with session_factory() as session:
                blob = disk.put_bytes(b"contended")
                try:
                    record_present(session, disk, blob)
                except UnavailableError:
                    continue
                assert is_stored(disk, blob)
                session.commit()
    finally:
        stop.set()
        for thread in collectors:
            thread.join()


def test_an_expired_file_goes_and_then_its_blob(
    session_factory: SessionFactory, session: Session, disk: BlobStore, tenant: Tenant
) -> None:
    blob = keep(session, disk, b"content", age=2 * GRACE)
    past, future = (datetime.now(UTC) + timedelta(seconds=offset) for offset in (-1, 60))
    expired = add_file(session, tenant, blob, past)
    waiting = add_file(session, tenant, blob, future)
    assert remove_expired_files(session_factory) == 1
    session.expire_all()
    assert session.get(File, expired) is None
    assert session.get(File, waiting) is not None
    assert collect(session_factory, disk, GRACE) == 0
    session.execute(update(File).values(expires_at=past))
    session.commit()
    assert remove_expired_files(session_factory) == 1
    assert collect(session_factory, disk, GRACE) == 1


def test_an_expired_file_that_a_job_needs_stays_until_the_job_ends(
    session_factory: SessionFactory, session: Session, disk: BlobStore, tenant: Tenant
) -> None:
    blob = keep(session, disk, b"content", age=0)
    file_id = add_file(session, tenant, blob, datetime.now(UTC) - timedelta(seconds=1))
    hold(session, tenant, file_id)
    assert remove_expired_files(session_factory) == 0
    session.delete(session.get_one(FileHold, ("ftjob-x", file_id)))
    session.commit()
    assert remove_expired_files(session_factory) == 1


def test_an_orphan_is_adopted_first_and_collected_a_grace_period_later(
    session_factory: SessionFactory, session: Session, disk: BlobStore, tmp_path: Path
) -> None:
    orphan, known, fresh = disk.put_bytes(b"orphan"), keep(session, disk, b"known", age=0), disk.put_bytes(b"fresh")
    long_ago = datetime.now(UTC).timestamp() - 2 * GRACE
    for blob in (orphan, known):
        (path,) = tmp_path.rglob(blob.sha256)
        os.utime(path, (long_ago, long_ago))
    assert adopt_orphans(session_factory, disk, GRACE) == 1
    assert collect(session_factory, disk, GRACE) == 0
    session.execute(update(Blob).values(last_seen_at=datetime.now(UTC) - timedelta(seconds=2 * GRACE)))
    session.commit()
    collect(session_factory, disk, GRACE)
    assert [is_stored(disk, blob) for blob in (orphan, known, fresh)] == [False, False, True]


def test_scratch_of_killed_uploads_is_swept_when_old(session_factory: SessionFactory, disk: BlobStore) -> None:
    killed, running = disk.writer(), disk.writer()
    long_ago = datetime.now(UTC).timestamp() - 2 * GRACE
    os.utime(killed._path, (long_ago, long_ago))
    adopt_orphans(session_factory, disk, GRACE)
    assert not killed._path.exists()
    assert running._path.exists()
    for writer in (killed, running):
        writer.abort()
