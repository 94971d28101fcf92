"""A live server for foreign clients: uvicorn on a free port, a door that holds requests up, a worker that publishes."""

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from sqlalchemy import select
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.models import FineTuningJob, JobStatus
from app.db.session import SessionFactory
from app.storage import BlobStore
from tests.fixtures.fine_tuning import finish_job

HOLD = "x-test-hold"
_DEADLINE_SECONDS = 20.0


@dataclass
class _Held:
    is_retried: asyncio.Event = field(default_factory=asyncio.Event)
    is_done: bool = False


class Door:
    """ASGI wrapper that holds a first request up until its retry has been answered, as a bad network would.

    ``x-test-hold: reply/NAME`` holds the answer, ``request/NAME`` the request on its way in. ``GET /v1/held/NAME``
    tells whether the held one is through. ``retried_paths`` are the paths that any client has retried.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held: defaultdict[str, _Held] = defaultdict(_Held)
        self.retried_paths: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_retry = headers.get("x-stainless-retry-count", "0") != "0"
        if is_retry:
            self.retried_paths.add(scope["path"])
        kind, _, name = headers.get(HOLD, "").partition("/")
        if scope["path"].startswith("/v1/held/"):
            await _answer(send, {"done": self._held[scope["path"].rpartition("/")[2]].is_done})
        elif not kind:
            await self._app(scope, receive, send)
        elif is_retry:
            await self._app(scope, receive, send)
            self._held[name].is_retried.set()
        else:
            await self._hold(kind, self._held[name], (scope, receive, send))

    async def _hold(self, kind: str, held: _Held, connection: tuple[Scope, Receive, Send]) -> None:
        scope, receive, send = connection
        body = await _read(receive)

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def late_send(message: Message) -> None:
            await held.is_retried.wait()
            await send(message)

        if kind == "request":
            await held.is_retried.wait()
        await self._app(scope, replay, late_send)
        held.is_done = True


async def _read(receive: Receive) -> bytes:
    body, is_complete = b"", False
    while not is_complete:
        message = await receive()
        assert message["type"] == "http.request"
        body += message.get("body", b"")
        is_complete = not message.get("more_body", False)
    return body


async def _answer(send: Send, content: dict[str, bool]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


@contextmanager
def serve(app: ASGIApp) -> Iterator[str]:
    """Serve ``app`` on a free port of this host; yield the base URL of its API."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not server.started:
            assert thread.is_alive(), "the server ended while starting"
            assert time.monotonic() < deadline, "the server did not start"
            thread.join(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(_DEADLINE_SECONDS)
        assert not thread.is_alive()


@contextmanager
def publishing_worker(factory: SessionFactory, store: BlobStore, project_id: str) -> Iterator[None]:
    """Take every queued job of the project to success, until the context ends."""
    stopping = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        queued = select(FineTuningJob.id).filter_by(project_id=project_id, status=JobStatus.QUEUED)
        while not stopping.wait(0.05):
            with factory() as session:
                job_ids = session.scalars(queued.order_by(FineTuningJob.id)).all()
            try:
                for job_id in job_ids:
                    finish_job(factory, store, job_id)
            except BaseException as error:
                failures.append(error)
                raise

    thread = threading.Thread(target=work, name="publishing worker")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(_DEADLINE_SECONDS)
        assert not thread.is_alive()
        assert failures == []
