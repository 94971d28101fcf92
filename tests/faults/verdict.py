"""What must hold after any fault: one end, at most one result, right bytes, nobody left behind."""

import hashlib
from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select

from app.db.models import Adapter, Artifact, File, FileHold, FineTuningJob, JobEvent
from app.db.models.fine_tuning_job import TERMINAL
from tests.faults.world import World
from tests.worker.scripted_jobs import read_attempts, read_job, wait_until

WEIGHTS = "adapter_model.safetensors"


def wait_for_end(world: World, job_id: str, *, seconds: float = 90.0) -> FineTuningJob:
    """Return the job once it is terminal."""
    wait_until(lambda: read_job(world.factory, job_id).status in TERMINAL, seconds=seconds, what=f"{job_id} ends")
    return read_job(world.factory, job_id)


def wait_for_status(world: World, job_id: str, status: str) -> None:
    """Wait until the job has ``status``."""
    try:
        wait_until(lambda: read_job(world.factory, job_id).status == status, what=f"{job_id} is {status}")
    except AssertionError as error:
        error.add_note(f"It is {read_job(world.factory, job_id).status}.")
        raise


def wait_for_checkpoint(world: World, job_id: str, *, seconds: float = 30.0) -> None:
    """Wait until the job's history mentions a stored checkpoint."""

    def is_stored() -> bool:
        with world.factory() as session:
            found = select(func.count()).where(JobEvent.job_id == job_id, JobEvent.message.startswith("Checkpoint"))
            return session.scalars(found).one() > 0

    wait_until(is_stored, seconds=seconds, what="a checkpoint")


def check(world: World, job_id: str, status: str) -> FineTuningJob:
    """Wait for the end and assert every promise; return the job."""
    job = wait_for_end(world, job_id)
    assert job.status == status, [attempt.outcome for attempt in read_attempts(world.factory, job_id)]
    with world.factory() as session:
        adapters = session.scalars(select(Adapter).where(Adapter.job_id == job_id)).all()
        holds = session.scalars(select(FileHold).where(FileHold.job_id == job_id)).all()
        ends = session.scalars(select(JobEvent.message).where(JobEvent.job_id == job_id, _is_end())).all()
        rows = session.scalars(select(Artifact).where(Artifact.job_id == job_id)).all()
        files = session.scalars(select(File).where(File.id.in_(job.result_files))).all()
    assert len(adapters) == (1 if status == "succeeded" else 0)
    assert not holds
    assert len(ends) == 1, ends
    _check_bytes(world, rows)
    _check_bytes(world, files)
    assert len(files) == len(job.result_files) == (2 if status == "succeeded" else 0)
    wait_until(lambda: world.trainers_at_work() == [], what=f"orphans are gone: {world.trainers()}")
    return job


def result_weights(world: World, job_id: str) -> bytes:
    """Return the published weights, the only adapter weights that the job has."""
    with world.factory() as session:
        adapter = session.scalars(select(Adapter).where(Adapter.job_id == job_id)).one()
        digest = session.scalars(
            select(Artifact.sha256).where(Artifact.owner_id == adapter.id, Artifact.name == WEIGHTS)
        )
        return b"".join(world.store.read(digest.one()))


def scripted_weights(steps: int) -> bytes:
    """Return the end of the weights that an uninterrupted scripted run of ``steps`` writes."""
    state = b"\x00" * 32
    for step in range(1, steps + 1):
        state = hashlib.sha256(state + step.to_bytes(4, "big")).digest()
    return state


def _is_end() -> ColumnElement[bool]:
    message = JobEvent.message
    return (
        message.startswith("The job has successfully")
        | (message == "Fine-tuning job cancelled.")
        | (JobEvent.level == "error")
    )


def _check_bytes(world: World, rows: Sequence[Artifact] | Sequence[File]) -> None:
    for row in rows:
        content = b"".join(world.store.read(row.sha256))
        assert len(content) == row.bytes
        assert hashlib.sha256(content).hexdigest() == row.sha256
