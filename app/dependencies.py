"""What endpoints ask for, as annotated aliases, and the resources of one API process that stand behind them.

| alias | is |
|---|---|
| ``DbSession`` | a session; the code commits explicitly, what is left is rolled back before the answer is sent |
| ``Sessions`` | the session factory, for async endpoints that hand their database work to a thread |
| ``Store``, ``Queue``, ``RequestSettings`` | blob store, job queue, settings |
| ``ModelEndpoints`` | the model endpoints that the operator has set up |
| ``Annotated[AuthenticatedKey, require(Scope.JOBS_WRITE)]`` | the caller; each scope has a short alias below |
| ``PageParams`` | ``after`` and ``limit`` of a list |
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection

from app.auth.scopes import Scope
from app.auth.service import AuthenticatedKey, KeyVerifier
from app.completions.configuration import Endpoints
from app.core.errors import AuthenticationError, PermissionDeniedError
from app.core.pagination import PageQuery
from app.core.settings import Settings
from app.db.session import SessionFactory, build_engine, build_session_factory
from app.queue import JobQueue
from app.storage import BlobStore

RESOURCES = "resources"


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that one API process holds open."""

    settings: Settings
    engine: Engine
    sessions: SessionFactory
    store: BlobStore
    queue: JobQueue
    verifier: KeyVerifier
    endpoints: Endpoints

    def close(self) -> None:
        """Drop every connection."""
        self.queue.close()
        self.engine.dispose()


def build_resources(settings: Settings) -> Resources:
    """Return the resources that ``settings`` describe; connects to nothing yet.

    Raises:
        ValueError: The pepper is missing, the storage URL or the file of endpoints is wrong.
    """
    engine = build_engine(settings)
    sessions = build_session_factory(engine)
    verifier = KeyVerifier(sessions, settings.api_key_pepper.get_secret_value(), settings.key_cache_seconds)
    return Resources(
        settings=settings,
        engine=engine,
        sessions=sessions,
        store=BlobStore.from_url(settings.storage_url),
        queue=JobQueue.from_settings(settings),
        verifier=verifier,
        endpoints=Endpoints.from_settings(settings),
    )


def get_resources(connection: HTTPConnection) -> Resources:
    """Return the resources of the application that serves this request."""
    resources: Resources = connection.app.state.resources
    return resources


async def _settings(request: Request) -> Settings:
    return get_resources(request).settings


async def _sessions(request: Request) -> SessionFactory:
    return get_resources(request).sessions


async def _store(request: Request) -> BlobStore:
    return get_resources(request).store


async def _queue(request: Request) -> JobQueue:
    return get_resources(request).queue


async def _endpoints(request: Request) -> Endpoints:
    return get_resources(request).endpoints


async def _session(request: Request) -> AsyncIterator[Session]:
    session = get_resources(request).sessions()  # connects when it is first used, in the endpoint's thread
    try:
        yield session
    finally:
        if session.in_transaction():
            await run_in_threadpool(session.close)


class RequireScope:
    """Dependency that authenticates the caller and checks one scope; kept inspectable for the test of all routes."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> AuthenticatedKey:
        """Return the caller.

        Raises:
            AuthenticationError: No key, or none that is good.
            PermissionDeniedError: The key lacks the scope.
        """
        text = _bearer(request.headers.get("authorization", ""))
        verifier = get_resources(request).verifier
        key = verifier.cached(text)
        if key is None:
            key = await run_in_threadpool(verifier.verify, text)
        request.state.key = key
        if not key.allows(self.scope):
            raise PermissionDeniedError(f"This API key lacks the scope '{self.scope}', which this route needs.")
        return key


def require(scope: Scope) -> Any:
    """Return what makes ``AuthenticatedKey`` an authenticated caller with ``scope``, inside ``Annotated``."""
    return Depends(RequireScope(scope))


def _bearer(header: str) -> str:
    kind, _, text = header.partition(" ")
    if kind.lower() != "bearer" or not text.strip():
        raise AuthenticationError(
            "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'; "
            "`nlft keys create` makes one."
        )
    return text.strip()


# The session is closed when the endpoint returns, not when the answer was sent: a slow download holds no connection.
DbSession = Annotated[Session, Depends(_session, scope="function")]
Sessions = Annotated[SessionFactory, Depends(_sessions)]
Store = Annotated[BlobStore, Depends(_store)]
Queue = Annotated[JobQueue, Depends(_queue)]
RequestSettings = Annotated[Settings, Depends(_settings)]
ModelEndpoints = Annotated[Endpoints, Depends(_endpoints)]
PageParams = Annotated[PageQuery, Query()]

FilesReader = Annotated[AuthenticatedKey, require(Scope.FILES_READ)]
FilesWriter = Annotated[AuthenticatedKey, require(Scope.FILES_WRITE)]
JobsReader = Annotated[AuthenticatedKey, require(Scope.JOBS_READ)]
JobsWriter = Annotated[AuthenticatedKey, require(Scope.JOBS_WRITE)]
ModelsReader = Annotated[AuthenticatedKey, require(Scope.MODELS_READ)]
ModelsWriter = Annotated[AuthenticatedKey, require(Scope.MODELS_WRITE)]
AdaptersReader = Annotated[AuthenticatedKey, require(Scope.ADAPTERS_READ)]
AdaptersWriter = Annotated[AuthenticatedKey, require(Scope.ADAPTERS_WRITE)]
Admin = Annotated[AuthenticatedKey, require(Scope.ADMIN)]
