"""What the job routes do."""

from typing import Any, NoReturn

from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.adapters.schemas import ArtifactList
from app.core.errors import ConflictError, InvalidRequestError, NotFoundError
from app.core.pagination import Page, PageQuery, build_document, build_page
from app.db.base import Json
from app.db.models.fine_tuning_job import FineTuningJob
from app.jobs import deduplication, lifecycle, repository
from app.jobs.admission import Admission
from app.jobs.creation import CreateCall, build_job
from app.jobs.event_stream import Place
from app.jobs.filters import read_filter
from app.jobs.inputs import NamedRows
from app.jobs.prediction import predict_job, report_on_data
from app.jobs.publication import tuned_model_name
from app.jobs.schemas import CheckpointQuery, CheckpointRead, EstimateRead, EventQuery, EventRead, JobCreate, JobQuery
from app.jobs.snapshots import SnapshotQuery, list_records
from app.jobs.wire import read_checkpoint, read_event, read_job
from app.storage import BlobStore


def estimate_job(session: Session, admission: Admission, project_id: str, body: JobCreate) -> EstimateRead:
    """Return what a job made from ``body`` would take; nothing is stored.

    Raises:
        InvalidRequestError: A file, the base model or a setting is unfit; ``param`` names it.
        NotFoundError: There is no such base model.
    """
    attempt = deduplication.identify(project_id, body, idempotency_key=None, retry_count=None)
    rows = NamedRows(session, [(project_id, body)])
    most_gpus = admission.settings.most_gpus
    job = build_job(rows, CreateCall(attempt, body), admission.endpoints, most_gpus=most_gpus).job
    estimate = EstimateRead(
        model=job.model,
        method=job.method,
        auto=job.auto or {},
        estimate=predict_job(session, admission.store, job),
        data=report_on_data(session, admission.store, job),
    )
    session.rollback()
    return estimate


def get_job(session: Session, project_id: str, job_id: str) -> FineTuningJob:
    """Return a job of the project.

    Raises:
        NotFoundError: The project has no such job.
    """
    job = repository.find_job(session, project_id, job_id)
    if job is None:
        raise NotFoundError(f"No fine-tuning job '{job_id}' in this project.", param="fine_tuning_job_id")
    return job


def list_jobs(session: Session, project_id: str, query: JobQuery) -> Json:
    """Return a page of the project's jobs, newest first.

    Raises:
        InvalidRequestError: The metadata filter is malformed.
    """
    wanted = read_filter(query)
    jobs = repository.list_jobs(session, project_id, query, metadata=wanted.pairs, without_metadata=wanted.is_absent)
    return build_document([read_job(job) for job in jobs], limit=query.limit)


def cancel_job(session: Session, project_id: str, job_id: str) -> FineTuningJob:
    """Cancel a queued job, or ask a running one to stop.

    Raises:
        NotFoundError: The project has no such job.
        ConflictError: The job has already ended.
    """
    job = lifecycle.request_cancel(session, project_id, job_id)
    session.commit()
    return job


def refuse_pause(session: Session, project_id: str, job_id: str) -> NoReturn:
    """Say that jobs do not pause.

    Raises:
        NotFoundError: The project has no such job.
        ConflictError: Always otherwise.
    """
    job = get_job(session, project_id, job_id)
    raise ConflictError(
        f"Job '{job.id}' is {job.status}. Pausing and resuming jobs is not supported; cancel it instead.",
        code="not_supported",
    )


def list_events(session: Session, project_id: str, job_id: str, query: PageQuery) -> Page[EventRead]:
    """Return a page of a job's events, newest first.

    Raises:
        NotFoundError: The project has no such job.
        InvalidRequestError: ``after`` is no event of this job.
    """
    job = get_job(session, project_id, job_id)
    before = None
    if query.after is not None:
        before = _require_place(repository.find_event_sequence(session, job.id, query.after), query.after)
    events = repository.list_events(session, job.id, before=before, limit=query.limit + 1)
    return build_page([read_event(event) for event in events], limit=query.limit)


def find_place(session: Session, project_id: str, job_id: str, query: EventQuery) -> Place:
    """Return where a stream of a job's events begins: behind ``after``, or at the first event.

    Raises:
        NotFoundError: The project has no such job.
        InvalidRequestError: ``after`` is no event of this job, or a limit is given, which streams have not.
    """
    job = get_job(session, project_id, job_id)
    if "limit" in query.model_fields_set:
        raise InvalidRequestError("A stream has no 'limit'; leave it out.", param="limit", code="invalid_value")
    if query.after is None:
        return job.id, 0
    return job.id, _require_place(repository.find_event_sequence(session, job.id, query.after), query.after)


def list_checkpoints(session: Session, project_id: str, job_id: str, query: CheckpointQuery) -> Page[CheckpointRead]:
    """Return a page of a job's checkpoints, highest step first.

    Raises:
        NotFoundError: The project has no such job.
        InvalidRequestError: ``after`` is no checkpoint of this job.
    """
    job = get_job(session, project_id, job_id)
    before = None
    if query.after is not None:
        before = _require_place(repository.find_checkpoint_step(session, job.id, query.after), query.after)
    checkpoints = repository.list_checkpoints(session, job.id, before=before, limit=query.limit + 1)
    model = job.fine_tuned_model or tuned_model_name(session, job)
    return build_page([read_checkpoint(checkpoint, model) for checkpoint in checkpoints], limit=query.limit)


def _require_place(place: int | None, after: str) -> int:
    if place is None:
        message = f"'{after}' is not in this list; 'after' takes the id of an item that the list has returned."
        raise InvalidRequestError(message, param="after", code="invalid_value")
    return place


def list_artifacts(session: Session, project_id: str, job_id: str) -> ArtifactList:
    """Return the files of a job's adapter; none before it has succeeded and after the adapter was deleted.

    Raises:
        NotFoundError: The project has no such job.
    """
    return adapters.list_job_artifacts(session, get_job(session, project_id, job_id).id)


def list_saliency(
    session: Session, store: BlobStore, project_id: str, job_id: str, query: SnapshotQuery
) -> dict[str, Any]:
    """Return a page of the saliency records of a job's pinned examples.

    Raises:
        NotFoundError: The project has no such job.
        InvalidRequestError: ``after`` is no record's id.
    """
    return list_records(session, store, get_job(session, project_id, job_id).id, query)
