"""The contract of a blob store, held by a folder and by an S3 bucket."""

import hashlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.storage import BlobDigestError, BlobNotFoundError, BlobStore
from app.storage.store import CHUNK_BYTES, blob_key

DATA = b"some bytes worth keeping"
UNKNOWN = "0" * 64


def test_a_stored_blob_is_named_by_its_sha256_and_reads_back(blob_store: BlobStore) -> None:
    blob = blob_store.put_bytes(DATA)
    assert blob.sha256 == hashlib.sha256(DATA).hexdigest()
    assert blob.bytes == blob_store.size(blob.sha256) == len(DATA)
    assert b"".join(blob_store.read(blob.sha256)) == DATA


def test_an_empty_blob_is_a_blob(blob_store: BlobStore) -> None:
    blob = blob_store.put_bytes(b"")
    assert b"".join(blob_store.read(blob.sha256)) == b""
    assert blob_store.size(blob.sha256) == 0


def test_a_file_larger_than_a_chunk_is_stored_and_read_in_chunks(blob_store: BlobStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096 * 5
    path = tmp_path / "large"
    path.write_bytes(content)
    chunks = list(blob_store.read(blob_store.put_file(path).sha256))
    assert b"".join(chunks) == content
    assert len(chunks) > 1
    assert max(map(len, chunks)) <= 4 * CHUNK_BYTES


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 4, DATA[:4]), (5, None, DATA[5:]), (5, 9999, DATA[5:]), (7, 7, b""), (9999, None, b"")],
)
def test_a_range_reads_only_its_bytes(blob_store: BlobStore, start: int, end: int | None, expected: bytes) -> None:
    assert b"".join(blob_store.read(blob_store.put_bytes(DATA).sha256, start, end)) == expected


def test_storing_equal_bytes_again_does_not_write_them_again(blob_store: BlobStore) -> None:
    blob = blob_store.put_bytes(DATA)
    other = b"not what the digest names, which only a second write would repair"
    obstore.put(blob_store._objects, blob_key(blob.sha256), other)
    assert blob_store.put_bytes(DATA) == blob
    assert b"".join(blob_store.read(blob.sha256)) == other


def test_two_writers_of_equal_bytes_both_succeed(blob_store: BlobStore) -> None:
    with blob_store.writer() as first, blob_store.writer() as second:
        first.write(DATA)
        second.write(DATA)
        assert first.finish() == second.finish()


def test_many_threads_storing_equal_bytes_agree(blob_store: BlobStore) -> None:
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(blob_store.put_bytes(DATA).sha256)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [hashlib.sha256(DATA).hexdigest()] * 8
    assert b"".join(blob_store.read(results[0])) == DATA


def test_a_writer_that_is_left_early_leaves_nothing(blob_store: BlobStore) -> None:
    with blob_store.writer() as writer:
        writer.write(DATA)
    assert list(blob_store.list_older(datetime.now(UTC) + timedelta(days=1))) == []
    assert not writer._path.exists()


def test_a_writer_that_fails_leaves_nothing(blob_store: BlobStore) -> None:
    writer = blob_store.writer()
    with pytest.raises(TypeError), writer:
        writer.write("text")  # type: ignore[arg-type]  # the mistake is the point
    assert not writer._path.exists()
    assert list(blob_store.list_older(datetime.now(UTC) + timedelta(days=1))) == []


def test_a_finished_writer_leaves_no_temporary_file(blob_store: BlobStore) -> None:
    with blob_store.writer() as writer:
        writer.write(DATA)
        writer.finish()
    assert not writer._path.exists()


def test_an_unknown_digest_is_told_at_the_call(blob_store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(BlobNotFoundError):
        blob_store.read(UNKNOWN)
    with pytest.raises(BlobNotFoundError):
        blob_store.size(UNKNOWN)
    with pytest.raises(BlobNotFoundError):
        blob_store.download(UNKNOWN, tmp_path / "target")


def test_deleting_is_final_and_repeatable(blob_store: BlobStore) -> None:
    blob = blob_store.put_bytes(DATA)
    blob_store.delete(blob.sha256)
    blob_store.delete(blob.sha256)
    with pytest.raises(BlobNotFoundError):
        blob_store.size(blob.sha256)


def test_a_download_replaces_its_target_whole(blob_store: BlobStore, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    blob_store.download(blob_store.put_bytes(DATA).sha256, target)
    assert target.read_bytes() == DATA


def test_a_damaged_blob_is_not_downloaded(blob_store: BlobStore, tmp_path: Path) -> None:
    blob = blob_store.put_bytes(DATA)
    obstore.put(blob_store._objects, blob_key(blob.sha256), DATA[:-1] + b"!")
    folder = tmp_path / "inputs"
    folder.mkdir()
    with pytest.raises(BlobDigestError, match=blob.sha256):
        blob_store.download(blob.sha256, folder / "target")
    assert list(folder.iterdir()) == []


def test_the_listing_holds_what_is_older_than_the_cutoff(blob_store: BlobStore) -> None:
    blob = blob_store.put_bytes(DATA)
    now = datetime.now(UTC)
    assert list(blob_store.list_older(now + timedelta(minutes=1))) == [blob]
    assert list(blob_store.list_older(now - timedelta(minutes=1))) == []


def test_a_blob_too_large_for_one_request_goes_up_in_parts(blob_store: BlobStore) -> None:
    content = bytes(65 << 20)
    blob = blob_store.put_bytes(content)
    assert blob_store.put_bytes(content) == blob
    assert blob_store.size(blob.sha256) == len(content)
    assert b"".join(blob_store.read(blob.sha256, len(content) - 3)) == bytes(3)


@pytest.mark.parametrize("url", ["/var/blobs", "file://relative", "gs://bucket", "s3://", "file:relative"])
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="STORAGE_URL"):
        BlobStore.from_url(url)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(pieces=st.lists(st.binary(max_size=200), max_size=8))
def test_the_name_does_not_depend_on_how_the_bytes_are_cut(tmp_path: Path, pieces: list[bytes]) -> None:
    store = BlobStore.from_url(f"file://{tmp_path}/blobs")
    with store.writer() as writer:
        for piece in pieces:
            writer.write(piece)
        assert writer.finish() == store.put_bytes(b"".join(pieces))
