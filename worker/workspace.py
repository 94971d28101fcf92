"""The folder of one attempt: spec, datasets and the checkpoint to go on from, all fetched by digest."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.core.logging import get_logger
from app.core.settings import Settings
from app.db.models import File, FineTuningJob, JobAttempt
from app.db.session import transaction
from app.jobs import checkpoints, leases
from app.jobs.checkpoints import ResumePoint
from app.jobs.leases import Lease
from app.storage import BlobDigestError, BlobNotFoundError
from worker.child import SCRATCH_DIR
from worker.context import WorkerContext
from worker.stages import fetch_parts
from worker.training.spec import (
    CHECKPOINTS_DIR,
    OUTPUTS_DIR,
    RESUME_DIR,
    SPEC_FILE,
    TRAINING_FILE,
    VALIDATION_FILE,
    TrainingSpec,
)

_LOG = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an attempt starts from; ``files`` maps workspace paths to digests."""

    project_id: str
    spec: TrainingSpec
    files: dict[str, str]
    resume_points: tuple[ResumePoint, ...]


@dataclass(frozen=True, slots=True)
class Workspace:
    """A prepared folder of a project's job.

    Attributes:
        folder: Where everything lies.
        project_id: Whose the job is.
        resume: The checkpoint it goes on from, if any.
        threads: CPU threads that each process of its trainer may use.
        n_gpus: Devices, and so processes, of its trainer.
    """

    folder: Path
    project_id: str
    resume: ResumePoint | None
    threads: int
    n_gpus: int


def prepare(context: WorkerContext, lease: Lease, folder: Path) -> Workspace:
    """Fill ``folder`` with spec, datasets, kept stage results and the newest checkpoint whose digests verify.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
        BlobNotFoundError: A dataset is gone from storage.
        BlobDigestError: A stored dataset is damaged.
    """
    with transaction(context.factory) as session:
        inputs = _read_inputs(session, lease, context.settings)
    for name in (SCRATCH_DIR, CHECKPOINTS_DIR, OUTPUTS_DIR):
        (folder / name).mkdir(parents=True)
    for name, sha256 in inputs.files.items():
        _download(context, sha256, folder / name)
    resume = _fetch_resume_point(context, lease, inputs.resume_points, folder / RESUME_DIR)
    fetch_parts(context, inputs.project_id, inputs.spec, folder)
    (folder / SPEC_FILE).write_text(inputs.spec.model_dump_json(indent=1))
    with transaction(context.factory) as session:
        leases.lock(session, lease)
        attempt = update(JobAttempt).where(JobAttempt.job_id == lease.job_id, JobAttempt.attempt == lease.attempt)
        session.execute(attempt.values(resume_step=resume.step if resume else None))
    return Workspace(folder, inputs.project_id, resume, inputs.spec.runtime.threads, inputs.spec.n_gpus)


def _read_inputs(session: Session, lease: Lease, settings: Settings) -> Inputs:
    job = leases.lock(session, lease)
    files = {TRAINING_FILE: _digest(session, job.training_file_id)}
    if job.validation_file_id is not None:
        files[VALIDATION_FILE] = _digest(session, job.validation_file_id)
    return Inputs(job.project_id, _spec(job, settings), files, tuple(checkpoints.list_resume_points(session, job.id)))


def _digest(session: Session, file_id: str) -> str:
    return session.scalars(select(File.sha256).where(File.id == file_id)).one()


def _spec(job: FineTuningJob, settings: Settings) -> TrainingSpec:
    spec = TrainingSpec.model_validate(job.spec)
    runtime = {
        "threads": settings.trainer_threads(spec.n_gpus),
        "checkpointed_layers": settings.worker_checkpointed_layers,
        "hidden_state_cache_bytes": settings.worker_hidden_state_cache_bytes,
        "shard_base": settings.worker_shard_base,
    }
    return spec.model_copy(update={"runtime": spec.runtime.model_copy(update=runtime)})


def _fetch_resume_point(
    context: WorkerContext, lease: Lease, points: Iterable[ResumePoint], target: Path
) -> ResumePoint | None:
    for point in points:
        try:
            for file in point.files:
                _download(context, file.sha256, target / file.name)
        except (BlobNotFoundError, BlobDigestError) as error:
            _LOG.warning("checkpoint is damaged", checkpoint_id=point.checkpoint_id, error=str(error))
            with transaction(context.factory) as session:
                checkpoints.discard(session, lease, point.checkpoint_id)
            shutil.rmtree(target, ignore_errors=True)
        else:
            return point
    return None


def _download(context: WorkerContext, sha256: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    context.store.download(sha256, path)
