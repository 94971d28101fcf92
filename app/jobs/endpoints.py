"""Routes of fine-tuning jobs."""

from functools import partial
from typing import Annotated, NoReturn

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from app.adapters.schemas import ArtifactList
from app.auth.scopes import Scope
from app.core.pagination import Page
from app.db.base import Json
from app.dependencies import (
    DbSession,
    JobsReader,
    JobsWriter,
    ModelEndpoints,
    RequestSettings,
    RequireScope,
    Store,
)
from app.jobs import deduplication, service
from app.jobs.admission import Admission
from app.jobs.creation import CreateCall
from app.jobs.event_stream import EventStreams
from app.jobs.group_commit import JobCreations
from app.jobs.schemas import (
    CheckpointQuery,
    CheckpointRead,
    EstimateRead,
    EventQuery,
    EventRead,
    JobCreate,
    JobQuery,
    JobRead,
)
from app.jobs.snapshots import SnapshotPage, SnapshotQuery
from app.jobs.wire import read_job

router = APIRouter(tags=["fine-tuning"])

_STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def _creations(request: Request) -> JobCreations:
    creations: JobCreations = request.app.state.creations
    return creations


async def _streams(request: Request) -> EventStreams:
    streams: EventStreams = request.app.state.event_streams
    return streams


@router.post("/v1/fine_tuning/jobs", response_model=JobRead)
async def create_job(
    body: JobCreate,
    key: JobsWriter,
    creations: Annotated[JobCreations, Depends(_creations)],
    *,
    idempotency_key: Annotated[str | None, Header(description="Repeating the call returns the same job.")] = None,
    x_stainless_retry_count: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Create a job; the answer is sent once it is stored for good."""
    attempt = deduplication.identify(
        key.project_id, body, idempotency_key=idempotency_key, retry_count=x_stainless_retry_count
    )
    return _answer(await creations.create(CreateCall(attempt, body)))


@router.post("/v1/fine_tuning/jobs/estimate")
def estimate_job(
    body: JobCreate,
    key: JobsWriter,
    *,
    session: DbSession,
    settings: RequestSettings,
    endpoints: ModelEndpoints,
    store: Store,
) -> EstimateRead:
    """Say what a job made from this body would take, and what its rows look like; creates nothing."""
    return service.estimate_job(session, Admission(store, endpoints, settings), key.project_id, body)


@router.get("/v1/fine_tuning/jobs", response_model=Page[JobRead])
def list_jobs(query: Annotated[JobQuery, Query()], key: JobsReader, session: DbSession) -> Response:
    """List jobs, newest first; ``metadata[key]=value`` pairs must all match, ``metadata=null`` finds jobs without."""
    return _answer(service.list_jobs(session, key.project_id, query))


@router.get("/v1/fine_tuning/jobs/{fine_tuning_job_id}", response_model=JobRead)
def get_job(fine_tuning_job_id: str, key: JobsReader, session: DbSession) -> Response:
    """Return a job."""
    return _answer(read_job(service.get_job(session, key.project_id, fine_tuning_job_id)))


@router.post("/v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel", response_model=JobRead)
def cancel_job(fine_tuning_job_id: str, key: JobsWriter, session: DbSession) -> Response:
    """Cancel a queued job at once; a running one stops within seconds."""
    return _answer(read_job(service.cancel_job(session, key.project_id, fine_tuning_job_id)))


@router.post("/v1/fine_tuning/jobs/{fine_tuning_job_id}/pause", response_model=None)
def pause_job(fine_tuning_job_id: str, key: JobsWriter, session: DbSession) -> NoReturn:
    """Answer 409: jobs do not pause."""
    service.refuse_pause(session, key.project_id, fine_tuning_job_id)


@router.post("/v1/fine_tuning/jobs/{fine_tuning_job_id}/resume", response_model=None)
def resume_job(fine_tuning_job_id: str, key: JobsWriter, session: DbSession) -> NoReturn:
    """Answer 409: jobs do not pause, so none resumes."""
    service.refuse_pause(session, key.project_id, fine_tuning_job_id)


@router.get(
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events",
    response_model=Page[EventRead],
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
def list_events(
    fine_tuning_job_id: str,
    query: Annotated[EventQuery, Query()],
    key: JobsReader,
    *,
    session: DbSession,
    request: Request,
    streams: Annotated[EventStreams, Depends(_streams)],
) -> Page[EventRead] | Response:
    """List what happened, newest first; with `stream=true` send it as it happens, oldest first, until the job ends."""
    if not query.stream:
        return service.list_events(session, key.project_id, fine_tuning_job_id, query)
    place = service.find_place(session, key.project_id, fine_tuning_job_id, query)
    streams.admit()
    events = streams.follow(place, partial(RequireScope(Scope.JOBS_READ), request))
    return StreamingResponse(events, media_type="text/event-stream", headers=_STREAM_HEADERS)


@router.get("/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints")
def list_checkpoints(
    fine_tuning_job_id: str, query: Annotated[CheckpointQuery, Query()], key: JobsReader, session: DbSession
) -> Page[CheckpointRead]:
    """List checkpoints, highest step first."""
    return service.list_checkpoints(session, key.project_id, fine_tuning_job_id, query)


@router.get("/v1/fine_tuning/jobs/{fine_tuning_job_id}/artifacts")
def list_artifacts(fine_tuning_job_id: str, key: JobsReader, session: DbSession) -> ArtifactList:
    """List the files of the job's adapter; empty until the job has succeeded."""
    return service.list_artifacts(session, key.project_id, fine_tuning_job_id)


@router.get("/v1/fine_tuning/jobs/{fine_tuning_job_id}/saliency", response_model=SnapshotPage)
def list_saliency(
    fine_tuning_job_id: str,
    query: Annotated[SnapshotQuery, Query()],
    key: JobsReader,
    *,
    session: DbSession,
    store: Store,
) -> Response:
    """List what the model made of the pinned examples, token by token: at step 0, at checkpoints and at the end."""
    page = service.list_saliency(session, store, key.project_id, fine_tuning_job_id, query)
    return _answer(page)


def _answer(document: Json) -> Response:
    """Return a document that is right as it is: the response models describe it and do not build it once more."""
    return Response(msgspec.json.encode(document), media_type="application/json")
