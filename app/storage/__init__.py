"""Content-addressed blob storage on a local directory or an S3-compatible bucket."""

from app.storage.store import BlobDigestError, BlobNotFoundError, BlobStore, BlobWriter, StoredBlob

__all__ = ["BlobDigestError", "BlobNotFoundError", "BlobStore", "BlobWriter", "StoredBlob"]
