"""The blob store: immutable bytes named by their sha256 at ``blobs/sha256/ab/cd/<digest>``.

A blob appears whole or not at all: bytes go to a temporary file first, are hashed on the way, and are then published
create-only (a hard link locally, a conditional or multipart put on S3). Who may read a blob is decided by rows, never
by keys. Everything here blocks; call it from a thread.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, S3Store

CHUNK_BYTES = 1 << 20
_SINGLE_PUT_BYTES = 64 << 20
_PREFIX = "blobs/sha256/"
_SCRATCH = "nlft-blob-"


class BlobNotFoundError(LookupError):
    """No blob has this digest."""


class BlobDigestError(RuntimeError):
    """The stored bytes are not those that the digest names."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A published blob: hexadecimal ``sha256`` and size in ``bytes``."""

    sha256: str
    bytes: int


class BlobStore:
    """Blobs in one place.

    Args:
        objects: The obstore backend, rooted at the place.
        local_root: Its directory when it is a local one; blobs are then published by hard link.
    """

    def __init__(self, objects: Any, local_root: Path | None = None) -> None:
        self._objects = objects
        self._local_root = local_root
        self._scratch = local_root / "tmp" if local_root else Path(tempfile.gettempdir())
        self._scratch.mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store at ``file:///dir`` or ``s3://bucket/prefix`` (``AWS_*`` variables apply).

        Raises:
            ValueError: The URL names neither.
        """
        parts = urlsplit(url)
        if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
            root = Path(unquote(parts.path))
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            return cls(LocalStore(root), root)
        if parts.scheme == "s3" and parts.netloc:
            return cls(_s3(url))
        raise ValueError(f"STORAGE_URL must be file:///absolute/dir or s3://bucket/prefix, not {parts.scheme}:…")

    def writer(self) -> "BlobWriter":
        """Return a writer; use it as a context manager and call ``finish`` inside."""
        return BlobWriter(self, self._scratch)

    def put_file(self, path: Path) -> StoredBlob:
        """Store a copy of the file at ``path``."""
        with path.open("rb") as source, self.writer() as writer:
            while chunk := source.read(CHUNK_BYTES):
                writer.write(chunk)
            return writer.finish()

    def put_bytes(self, data: bytes) -> StoredBlob:
        """Store ``data``."""
        with self.writer() as writer:
            writer.write(data)
            return writer.finish()

    def read(self, sha256: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Return the bytes from ``start`` up to, not including, ``end`` in chunks of about 1 MiB.

        Raises:
            BlobNotFoundError: At the call, not at the first chunk.
        """
        size = self.size(sha256)
        stop = size if end is None else min(end, size)
        if start >= stop:
            return iter(())
        try:
            found = obstore.get(self._objects, blob_key(sha256), options={"range": (start, stop)})
        except FileNotFoundError as error:
            raise BlobNotFoundError(sha256) from error
        return iter(found.stream(min_chunk_size=CHUNK_BYTES))

    def download(self, sha256: str, path: Path) -> None:
        """Write the blob to ``path``, which appears only once its digest was found right.

        Raises:
            BlobNotFoundError: There is no such blob.
            BlobDigestError: The stored bytes are damaged.
        """
        chunks = self.read(sha256)
        digest = hashlib.sha256()
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".download-")
        try:
            with os.fdopen(descriptor, "wb") as target:
                for chunk in chunks:
                    digest.update(chunk)
                    target.write(chunk)
            if digest.hexdigest() != sha256:
                raise BlobDigestError(f"blob {sha256} is damaged: its bytes have digest {digest.hexdigest()}")
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)

    def size(self, sha256: str) -> int:
        """Return the size in bytes.

        Raises:
            BlobNotFoundError: There is no such blob.
        """
        try:
            return int(obstore.head(self._objects, blob_key(sha256))["size"])
        except FileNotFoundError as error:
            raise BlobNotFoundError(sha256) from error

    def delete(self, sha256: str) -> None:
        """Delete the blob; one that is already gone is fine."""
        with suppress(FileNotFoundError):
            obstore.delete(self._objects, blob_key(sha256))

    def list_older(self, than: datetime) -> Iterator[StoredBlob]:
        """Yield every blob that was last written before ``than`` (aware); a full listing of the store."""
        for batch in obstore.list(self._objects, prefix=_PREFIX):
            for entry in batch:
                if entry["last_modified"] < than:
                    yield StoredBlob(entry["path"].rsplit("/", 1)[-1], entry["size"])

    def sweep_scratch(self, than: datetime) -> None:
        """Delete temporary files that were last written before ``than`` (aware): their writers were killed."""
        for path in self._scratch.glob(f"{_SCRATCH}*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < than.timestamp():
                    path.unlink()

    def publish(self, path: Path, blob: StoredBlob) -> None:
        """Make the finished, synced file at ``path`` visible under its digest; an equal blob already there is kept."""
        key = blob_key(blob.sha256)
        if self._local_root is not None:
            _link(path, self._local_root / key)
            return
        if blob.bytes > _SINGLE_PUT_BYTES:
            # Multipart has no create-only form; equal keys hold equal bytes, so writing them twice changes nothing.
            obstore.put(self._objects, key, path, use_multipart=True)
            return
        with suppress(AlreadyExistsError):
            obstore.put(self._objects, key, path, mode="create", use_multipart=False)


class BlobWriter:
    """Takes bytes, then publishes them as one blob; leaving the context without ``finish`` leaves nothing behind."""

    def __init__(self, store: BlobStore, scratch: Path) -> None:
        descriptor, name = tempfile.mkstemp(dir=scratch, prefix=_SCRATCH)
        self._store = store
        self._path = Path(name)
        self._file: IO[bytes] = os.fdopen(descriptor, "wb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``."""
        self._digest.update(data)
        self._bytes += len(data)
        self._file.write(data)

    def finish(self) -> StoredBlob:
        """Make the bytes durable and visible; return their name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        blob = StoredBlob(self._digest.hexdigest(), self._bytes)
        self._store.publish(self._path, blob)
        return blob

    def abort(self) -> None:
        """Drop the temporary file; harmless after ``finish``."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


def blob_key(sha256: str) -> str:
    """Return the object key of a digest: the only place that knows the layout."""
    return f"{_PREFIX}{sha256[:2]}/{sha256[2:4]}/{sha256}"


def _link(source: Path, target: Path) -> None:
    missing = [folder for folder in (target.parent.parent, target.parent) if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        target.hardlink_to(source)
    for folder in {target.parent, *(folder.parent for folder in missing)}:
        _sync_directory(folder)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _s3(url: str) -> S3Store:
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    return S3Store.from_url(
        url,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(minutes=10),
        },
        retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=30)},
    )
