"""Resumable checkpoints: registered under the lease, read by the next attempt, pruned once they are not needed."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.core import ids
from app.db.base import Json
from app.db.models.artifact import Artifact
from app.db.models.checkpoint import Checkpoint
from app.db.models.fine_tuning_job import TERMINAL, FineTuningJob
from app.jobs import leases
from app.jobs.events import append_event
from app.jobs.leases import Lease
from app.jobs.publication import StoredFile, artifact_rows


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A checkpoint that training can go on from."""

    checkpoint_id: str
    step: int
    files: tuple[StoredFile, ...]


def register_checkpoint(
    session: Session, lease: Lease, *, step: int, metrics: Json, files: Sequence[StoredFile]
) -> Checkpoint:
    """Record an uploaded checkpoint; a later attempt's replaces an earlier one's of the same step.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    job = leases.lock(session, lease)
    known = select(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.step == step)
    checkpoint = session.scalar(known) or Checkpoint(id=ids.new_id(ids.CHECKPOINT), job_id=job.id, step=step)
    checkpoint.attempt, checkpoint.metrics, checkpoint.resumable = lease.attempt, metrics, True
    session.add(checkpoint)
    session.execute(delete(Artifact).where(Artifact.owner_id == checkpoint.id))
    session.add_all(artifact_rows(job.id, checkpoint.id, files))
    message = f"Checkpoint created at step {step}."
    append_event(session, job.id, attempt=lease.attempt, level="info", message=message, data={"step": step})
    return checkpoint


def list_resume_points(session: Session, job_id: str) -> list[ResumePoint]:
    """Return the job's checkpoints whose files are kept, newest step first."""
    kept = select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.resumable).order_by(Checkpoint.step.desc())
    return [
        ResumePoint(checkpoint.id, checkpoint.step, _files(session, checkpoint.id))
        for checkpoint in session.scalars(kept)
    ]


def discard(session: Session, lease: Lease, checkpoint_id: str) -> None:
    """Never resume from a checkpoint that turned out to be damaged.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    leases.lock(session, lease)
    _drop_files(session, [checkpoint_id])


def prune(session: Session, *, keep: int) -> int:
    """Let go of the files of all but each job's newest ``keep`` checkpoints, and of all when the job is terminal.

    Returns:
        How many checkpoints lost their files. The rows and their metrics stay.
    """
    rank = func.row_number().over(partition_by=Checkpoint.job_id, order_by=Checkpoint.step.desc()).label("rank")
    ranked = (
        select(Checkpoint.id, rank, FineTuningJob.status)
        .join(FineTuningJob, FineTuningJob.id == Checkpoint.job_id)
        .where(Checkpoint.resumable)
        .subquery()
    )
    surplus = select(ranked.c.id).where(or_(ranked.c.rank > keep, ranked.c.status.in_(TERMINAL)))
    checkpoint_ids = list(session.scalars(surplus))
    if checkpoint_ids:
        _drop_files(session, checkpoint_ids)
    return len(checkpoint_ids)


def _files(session: Session, owner_id: str) -> tuple[StoredFile, ...]:
    rows = session.scalars(select(Artifact).where(Artifact.owner_id == owner_id).order_by(Artifact.name))
    return tuple(StoredFile(row.name, row.sha256, row.bytes) for row in rows)


def _drop_files(session: Session, checkpoint_ids: Sequence[str]) -> None:
    options = {"synchronize_session": False}
    unusable = update(Checkpoint).where(Checkpoint.id.in_(checkpoint_ids)).values(resumable=False)
    session.execute(unusable, execution_options=options)
    session.execute(delete(Artifact).where(Artifact.owner_id.in_(checkpoint_ids)), execution_options=options)
