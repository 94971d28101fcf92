"""Pure ASGI middleware: what every request gets before a route sees it.

``RequestContext`` is the outermost: request id, response headers, access log, and the 500 of last resort.
``BodyGuard`` bounds how large and how slow a request body may be.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import suppress

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core import ids
from app.core.errors import PayloadTooLargeError, ServiceError
from app.core.logging import get_logger, log_plainly

_LOG = get_logger(__name__)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_QUIET_PATHS = {"/livez", "/readyz"}
_CLIENT_CLOSED = 499
_PROGRESS_BYTES = 4096
_LINGER_SECONDS = 5.0


class RequestContext:
    """Names the request, stamps the answer, writes one access line, and turns a stray exception into a plain 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _header(scope, b"x-request-id")
        request_id = given if _REQUEST_ID.fullmatch(given) else ids.new_id(ids.REQUEST)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, status = time.perf_counter(), 0

        async def stamped_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                milliseconds = round((time.perf_counter() - started) * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"openai-version", b"2020-10-01"),
                    (b"openai-processing-ms", b"%d" % milliseconds),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, stamped_send)
        except ClientDisconnect:
            status = status or _CLIENT_CLOSED  # nobody is left to answer; the access line keeps the record
        except Exception:
            _LOG.exception("unhandled error", method=scope["method"], path=scope["path"])
            if status:
                raise  # half an answer is out: only closing the connection tells the client
            error = ServiceError(f"The server had an error. Quote request id {request_id} when you report it.")
            await JSONResponse(error.envelope(), status_code=500)(scope, receive, stamped_send)
        finally:
            _log_access(scope, request_id, status, time.perf_counter() - started)


def _header(scope: Scope, wanted: bytes) -> str:
    """Return the first header of this lower-case name; empty when there is none."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


def _log_access(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    if scope["path"] in _QUIET_PATHS and status < 400:
        return
    key = scope.get("state", {}).get("key")
    log_plainly(
        __name__,
        {
            "event": "request",
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
            "key_id": key.id if key else None,
            "project_id": key.project_id if key else None,
            "request_id": request_id,
        },
    )


class BodyGuard:
    """Refuses bodies that are too large (413) or that trickle in too slowly (408).

    Args:
        app: What to guard.
        max_bytes: Largest body, unless the path is in ``larger``.
        larger: Paths of ``POST`` routes with a larger limit of their own, in bytes.
        idle_seconds: Longest time in which fewer than 4 KiB of an unfinished body may arrive.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, larger: Mapping[str, int], idle_seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._larger = dict(larger)
        self._idle_seconds = idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _header(scope, b"content-length")
        if not declared and not _header(scope, b"transfer-encoding"):
            await self._app(scope, receive, send)
            return
        limit = self._larger.get(scope["path"], self._max_bytes) if scope["method"] == "POST" else self._max_bytes
        if declared.isdecimal() and int(declared) > limit:
            await _refuse_early(_too_large(limit), receive, send)
            return
        await self._app(scope, _GuardedBody(receive, limit, self._idle_seconds), send)


class _GuardedBody:
    """An ASGI ``receive`` that counts and times the body. Raises ``HTTPException``, which FastAPI lets through."""

    def __init__(self, receive: Receive, limit: int, idle_seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._total = 0
        self._mark = 0
        self._deadline: float | None = None
        self._is_complete = False

    async def __call__(self) -> Message:
        if self._is_complete:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._idle_seconds
        if now >= self._deadline:  # a timeout alone would miss messages that come without a wait
            raise _too_slow(self._idle_seconds)
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise _too_slow(self._idle_seconds) from None
        if message["type"] == "http.request":
            self._count(message)
        return message

    def _count(self, message: Message) -> None:
        self._total += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._total > self._limit:
            raise HTTPException(413, _too_large(self._limit).message, {"connection": "close"})
        if self._total - self._mark >= _PROGRESS_BYTES:
            self._mark = self._total
            self._deadline = None


async def _refuse_early(error: ServiceError, receive: Receive, send: Send) -> None:
    """Answer before the body was read, and go on reading for a moment.

    Closing a socket with unread bytes resets it, and the reset may overtake the answer: the client would see a broken
    connection and try again.
    """
    answer = JSONResponse(error.envelope(), status_code=error.status_code, headers={"connection": "close"})
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b""})


def _too_slow(seconds: float) -> HTTPException:
    text = f"The request body arrived too slowly: under {_PROGRESS_BYTES} bytes in {seconds:g} s."
    return HTTPException(408, text, {"connection": "close"})


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The request body is larger than the {limit} bytes that this route accepts.")
