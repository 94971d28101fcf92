"""The short way to a job: ``GET /v1/fine_tuning/jobs/ID`` is what clients ask most, over and over while they wait.

The route's endpoint stays in charge. This answers only what is plain: a key that was verified a moment ago and may read
jobs, an id of our shape, a job that is there. Anything else, and every refusal, takes the long way through the
framework, so that nothing about errors, documentation or authentication is said twice.
"""

import re

import psycopg
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.scopes import Scope as KeyScope
from app.auth.service import KeyVerifier
from app.jobs.documents import JobDocuments

_PREFIX = "/v1/fine_tuning/jobs/"
_PATH = re.compile(_PREFIX + "(ftjob-[0-9a-z]{26})")
_BEARER = b"Bearer "


class JobShortcut:
    """Pure ASGI middleware; innermost, so that guards and access line apply.

    Args:
        app: Serves everything else.
        documents: Where jobs are read.
        verifier: Knows the keys that were verified a moment ago.
    """

    def __init__(self, app: ASGIApp, *, documents: JobDocuments, verifier: KeyVerifier) -> None:
        self._app = app
        self._documents = documents
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        body = await self._find(scope)
        if body is None:
            await self._app(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _find(self, scope: Scope) -> bytes | None:
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(_PREFIX):
            return None
        wanted = _PATH.fullmatch(scope["path"])
        text = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if wanted is None or not text.startswith(_BEARER):
            return None
        key = self._verifier.cached(text[len(_BEARER) :].decode("latin-1"))
        if key is None or not key.allows(KeyScope.JOBS_READ):
            return None
        scope.setdefault("state", {})["key"] = key
        try:
            return await self._documents.find(key.project_id, wanted[1])
        except (SQLAlchemyError, psycopg.Error):
            return None  # the long way asks again and says what is wrong
