"""The rows of a result. Its blobs are stored and recorded before these are written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import ids
from app.db.base import Json
from app.db.models.adapter import Adapter
from app.db.models.artifact import Artifact
from app.db.models.base_model import BaseModel
from app.db.models.file import File
from app.db.models.fine_tuning_job import FineTuningJob
from app.db.models.project import Project
from app.files.schemas import FINE_TUNE

RESULT_PURPOSE = "fine-tune-results"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A named file whose bytes lie in storage under ``sha256``."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class BuiltDataset:
    """The rows that were trained, as the building stages made them; ``report`` is that of an upload."""

    file: StoredFile
    report: Json


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a finished training leaves: ``downloads``, in this order, and ``built`` become files of the project."""

    trained_tokens: int
    metrics: Json
    artifacts: tuple[StoredFile, ...]
    downloads: tuple[StoredFile, ...]
    built: BuiltDataset | None = None
    outcome: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """Names under which the result is visible."""

    model: str
    adapter_id: str
    file_ids: tuple[str, ...] = field(default=())
    built_file_id: str | None = None


def add_result(session: Session, job: FineTuningJob, result: JobResult) -> PublishedResult:
    """Insert the adapter, its artifacts and the downloadable files; the caller holds the job's row and commits."""
    adapter = Adapter(
        id=ids.new_id(ids.ADAPTER),
        project_id=job.project_id,
        job_id=job.id,
        model=tuned_model_name(session, job),
        base_model_id=job.base_model_id,
        base_model_digest=session.scalars(select(BaseModel.digest).where(BaseModel.id == job.base_model_id)).one(),
        metrics=result.metrics,
    )
    files = [_result_file(job, stored) for stored in result.downloads]
    built = _built_file(job, result.built) if result.built else None
    session.add_all([adapter, *files, *filter(None, (built,))])
    session.add_all(artifact_rows(job.id, adapter.id, result.artifacts))
    session.flush()
    return PublishedResult(adapter.model, adapter.id, tuple(file.id for file in files), built.id if built else None)


def tuned_model_name(session: Session, job: FineTuningJob) -> str:
    """Return ``ft:{base}:{project}:{suffix}:{8 characters}``, unique through the random end of the job's id."""
    project = session.scalars(select(Project.name).where(Project.id == job.project_id)).one()
    base = job.base_model_id.replace("/", "-")
    return f"ft:{base}:{_slug(project)}:{job.suffix or ''}:{job.id[-8:]}"


def _result_file(job: FineTuningJob, stored: StoredFile) -> File:
    return File(
        id=ids.new_id(ids.FILE),
        project_id=job.project_id,
        filename=stored.name,
        purpose=RESULT_PURPOSE,
        bytes=stored.bytes,
        sha256=stored.sha256,
    )


def _built_file(job: FineTuningJob, built: BuiltDataset) -> File:
    return File(
        id=ids.new_id(ids.FILE),
        project_id=job.project_id,
        filename=built.file.name,
        purpose=FINE_TUNE,
        bytes=built.file.bytes,
        sha256=built.file.sha256,
        report=built.report,
    )


def artifact_rows(job_id: str, owner_id: str, files: Sequence[StoredFile]) -> list[Artifact]:
    """Return the rows that name the files of an adapter or a checkpoint."""
    return [
        Artifact(owner_id=owner_id, name=file.name, job_id=job_id, bytes=file.bytes, sha256=file.sha256)
        for file in files
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
