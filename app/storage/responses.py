"""Serves a blob over HTTP: entity tag, conditional and range requests (RFC 9110 sections 13 and 14), HEAD."""

import base64
import re
from collections.abc import Mapping
from urllib.parse import quote

from starlette.responses import JSONResponse, Response, StreamingResponse

from app.core.errors import InvalidRequestError
from app.storage.store import BlobStore, StoredBlob

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_UNSAFE_IN_HEADER = re.compile(r"[^ !#-\[\]-~]")  # all but printable ASCII; no quote, no backslash


def blob_response(
    store: BlobStore,
    blob: StoredBlob,
    *,
    method: str,
    headers: Mapping[str, str],
    filename: str,
    media_type: str = "application/octet-stream",
) -> Response:
    """Return the answer to a GET or HEAD with these lower-cased request ``headers``, offered as ``filename``.

    The entity tag is the quoted sha256, so a client can check what it received. One byte range is served; several at
    once, or a malformed one, get the whole blob, as the RFC allows.
    """
    tag = f'"{blob.sha256}"'
    shared = {
        "etag": tag,
        "accept-ranges": "bytes",
        "cache-control": "private, immutable",
        "repr-digest": f"sha-256=:{base64.b64encode(bytes.fromhex(blob.sha256)).decode()}:",
        "content-disposition": content_disposition(filename),
    }
    if _matches(headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=shared)
    status, start, stop = 200, 0, blob.bytes
    wanted = headers.get("range") if headers.get("if-range", tag) == tag else None
    span = _parse_range(wanted, blob.bytes) if wanted else None
    if span is not None:
        status, (start, stop) = 206, span
        if start >= stop:
            return _unsatisfiable(blob.bytes)
        shared["content-range"] = f"bytes {start}-{stop - 1}/{blob.bytes}"
    shared["content-length"] = str(stop - start)
    if method == "HEAD":
        return Response(status_code=status, headers=shared, media_type=media_type)
    chunks = store.read(blob.sha256, start, stop)
    return StreamingResponse(chunks, status_code=status, headers=shared, media_type=media_type)


def content_disposition(filename: str) -> str:
    """Return an attachment header that every client reads safely: an ASCII name, and the exact one beside it."""
    plain = _UNSAFE_IN_HEADER.sub("_", filename)
    exact = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'attachment; filename="{plain}"{exact}'


def _matches(header: str, tag: str) -> bool:
    offered = [part.strip().removeprefix("W/") for part in header.split(",")]
    return tag in offered or offered == ["*"]


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return [start, stop) in bytes, empty when nothing of it exists; None when the header is to be ignored."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return min(int(first), size), min(int(last) + 1, size) if last else size


def _unsatisfiable(size: int) -> Response:
    error = InvalidRequestError(
        f"The requested range lies outside the {size} bytes of this content.",
        param="range",
        code="range_not_satisfiable",
    )
    return JSONResponse(error.envelope(), status_code=416, headers={"content-range": f"bytes */{size}"})
