"""Builds the API application: settings in, ASGI app out. ``uvicorn --factory app.main:create_app`` serves it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from app.core.logging import configure_logging
from app.core.settings import Settings, get_settings
from app.dependencies import Resources, build_resources
from app.error_handlers import add_error_handlers
from app.jobs.admission import Admission
from app.jobs.documents import JobDocuments
from app.jobs.event_stream import EventStreams
from app.jobs.group_commit import JobCreations
from app.jobs.reconcile import start_reconcile_loop
from app.jobs.shortcut import JobShortcut
from app.middleware import BodyGuard, RequestContext
from app.router import ROUTERS

_FORM_BYTES = 64 << 10
_UPLOAD_PATH = "/v1/files"


def create_app(settings: Settings | None = None, *, reconcile: bool = True) -> FastAPI:
    """Return the application for ``settings``, by default those of the environment.

    Args:
        settings: What to serve with.
        reconcile: Run the reconcile loop beside the requests; tests that look at single steps do without.

    Raises:
        ValueError: A required setting is missing or wrong; the message says which.
    """
    settings = settings or get_settings()
    configure_logging(settings.log_level)
    app = FastAPI(
        title="NLFT",
        summary="Self-hosted fine-tuning with an OpenAI-compatible API.",
        lifespan=_reconciling if reconcile else _serving,
        docs_url="/docs" if settings.serve_docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.serve_docs else None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # to look for a collector takes 3 us a request
    )
    app.state.resources = build_resources(settings)
    add_error_handlers(app)
    resources: Resources = app.state.resources
    admission = Admission(resources.store, resources.endpoints, settings)
    app.state.creations = JobCreations(resources.sessions, resources.queue, admission)
    app.state.documents = JobDocuments(resources.engine)
    app.state.event_streams = EventStreams(resources.engine, settings.max_event_streams)
    app.add_middleware(JobShortcut, documents=app.state.documents, verifier=app.state.resources.verifier)
    app.add_middleware(
        BodyGuard,
        max_bytes=settings.max_request_bytes,
        larger={_UPLOAD_PATH: settings.max_upload_bytes + _FORM_BYTES},
        idle_seconds=settings.body_idle_seconds,
    )
    app.add_middleware(RequestContext)  # added last, so outermost
    for router in ROUTERS:
        app.include_router(router)
    return app


@asynccontextmanager
async def _serving(app: FastAPI) -> AsyncIterator[None]:
    app.state.documents.open()
    try:
        yield
    finally:
        app.state.creations.close()
        app.state.documents.close()
        app.state.event_streams.close()
        app.state.resources.close()


@asynccontextmanager
async def _reconciling(app: FastAPI) -> AsyncIterator[None]:
    stop = start_reconcile_loop(app.state.resources.settings)
    try:
        async with _serving(app):
            yield
    finally:
        await run_in_threadpool(stop)
