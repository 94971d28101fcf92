import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.models import Artifact, Checkpoint
from app.jobs import checkpoints, lifecycle
from app.jobs.leases import Lease, LeaseLostError
from app.jobs.publication import JobResult, StoredFile
from tests.app.jobs.lifecycle.steps import DONE, POLICY, claim, count, expire, messages


@pytest.fixture
def files(result: JobResult) -> tuple[StoredFile, ...]:
    stored = result.artifacts[0]
    return (
        StoredFile("manifest.json", stored.sha256, stored.bytes),
        StoredFile("rng/cpu", stored.sha256, stored.bytes),
    )


def register(session: Session, lease: Lease, step: int, files: tuple[StoredFile, ...]) -> Checkpoint:
    return checkpoints.register_checkpoint(session, lease, step=step, metrics={"train_loss": 1.0}, files=files)


def steps(session: Session, job_id: str) -> list[int]:
    return [point.step for point in checkpoints.list_resume_points(session, job_id)]


def test_registered_checkpoints_are_offered_newest_first(
    session: Session, lease: Lease, files: tuple[StoredFile, ...]
) -> None:
    for step in (5, 15, 10):
        register(session, lease, step, files)
    points = checkpoints.list_resume_points(session, lease.job_id)
    assert [point.step for point in points] == [15, 10, 5]
    assert points[0].files == files
    assert messages(session, lease.job_id)[-1] == "Checkpoint created at step 10."


def test_late_checkpoint_of_a_lost_attempt_is_refused(
    session: Session, lease: Lease, files: tuple[StoredFile, ...]
) -> None:
    expire(session, lease)
    lifecycle.reap(session, policy=POLICY, lease_seconds=0)
    with pytest.raises(LeaseLostError):
        register(session, lease, 5, files)
    assert count(session, Checkpoint) == count(session, Artifact) == 0


def test_later_attempt_replaces_the_checkpoint_of_a_step(
    session: Session, lease: Lease, files: tuple[StoredFile, ...]
) -> None:
    first = register(session, lease, 5, files)
    expire(session, lease)
    lifecycle.reap(session, policy=POLICY, lease_seconds=0)
    again = register(session, claim(session, lease.job_id), 5, files[:1])
    assert (again.id, again.attempt, again.resumable) == (first.id, 2, True)
    assert [point.files for point in checkpoints.list_resume_points(session, lease.job_id)] == [files[:1]]


def test_discarded_checkpoint_is_never_offered_again(
    session: Session, lease: Lease, files: tuple[StoredFile, ...]
) -> None:
    register(session, lease, 5, files)
    damaged = register(session, lease, 10, files)
    checkpoints.discard(session, lease, damaged.id)
    assert steps(session, lease.job_id) == [5]
    expire(session, lease)
    lifecycle.reap(session, policy=POLICY, lease_seconds=0)
    with pytest.raises(LeaseLostError):
        checkpoints.discard(session, lease, damaged.id)


def test_pruning_keeps_the_newest_of_a_running_job_and_none_of_a_finished_one(
    session: Session, lease: Lease, result: JobResult, files: tuple[StoredFile, ...]
) -> None:
    for step in (5, 10, 15):
        register(session, lease, step, files)
    assert checkpoints.prune(session, keep=2) == 1
    assert steps(session, lease.job_id) == [15, 10]
    assert checkpoints.prune(session, keep=2) == 0
    lifecycle.succeed(session, lease, result, DONE)
    assert checkpoints.prune(session, keep=2) == 2
    assert steps(session, lease.job_id) == []
    assert count(session, Checkpoint) == 3
    kept = session.scalars(select(func.count()).where(Artifact.owner_id.startswith("adapter-"))).one()
    assert kept == count(session, Artifact) == len(result.artifacts)
