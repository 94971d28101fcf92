import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from app.db.models import FileHold, FineTuningJob, IdempotencyKey, JobEvent
from tests.faults.service import build_request
from tests.faults.verdict import check, result_weights, scripted_weights, wait_for_checkpoint, wait_for_status
from tests.faults.world import World
from tests.worker.scripted_jobs import add_job, add_project, read_attempts, read_job, wait_until

STEPS = 20
SCRIPT = {"steps": STEPS, "step_seconds": 0.1, "checkpoint_every": 5}


@pytest.fixture
def job_id(world: World) -> str:
    job = add_job(world.factory, add_project(world.factory, world.store), **SCRIPT)
    assert world.queue.enqueue_job(job)
    return job


def kill_trainers(world: World) -> Sequence[psutil.Process]:
    found = world.trainers()
    for trainer in found:
        trainer.kill()
    return found


def outcomes(world: World, job_id: str) -> list[str | None]:
    return [attempt.outcome for attempt in read_attempts(world.factory, job_id)]


def check_resumed(world: World, job_id: str) -> FineTuningJob:
    job = check(world, job_id, "succeeded")
    assert (read_attempts(world.factory, job_id)[-1].resume_step or 0) >= 5
    assert result_weights(world, job_id).endswith(scripted_weights(STEPS))
    return job


def test_killed_child_is_a_counted_loss_and_its_successor_resumes_bit_for_bit(world: World, job_id: str) -> None:
    world.start_worker()
    wait_for_checkpoint(world, job_id)
    assert kill_trainers(world)

    job = check_resumed(world, job_id)
    assert (job.attempt, job.lost_count, job.failed_count) == (2, 1, 0)
    assert outcomes(world, job_id) == ["lost", "succeeded"]
    assert read_attempts(world.factory, job_id)[0].exit_code == -signal.SIGKILL


def test_killed_worker_takes_its_child_along_and_another_resumes(world: World, job_id: str) -> None:
    first = world.start_worker()
    wait_for_checkpoint(world, job_id)
    first.kill()
    wait_until(lambda: world.trainers() == [], seconds=2, what="the child follows its worker")
    assert read_job(world.factory, job_id).status == "running"

    world.start_worker()
    job = check_resumed(world, job_id)
    assert (job.attempt, job.lost_count) == (2, 1)
    assert outcomes(world, job_id) == ["lost", "succeeded"]


@pytest.mark.parametrize(
    ("failpoint", "attempts"), [("after_claim", 2), ("before_publish_commit", 2), ("after_publish_commit", 1)]
)
def test_worker_that_dies_at_a_crash_point_leaves_one_result(world: World, failpoint: str, attempts: int) -> None:
    job_id = add_job(world.factory, add_project(world.factory, world.store), steps=3)
    doomed = world.start_worker(failpoint=failpoint)
    world.queue.enqueue_job(job_id)
    assert doomed.popen.wait(20) == -signal.SIGKILL

    world.start_worker()
    assert check(world, job_id, "succeeded").attempt == attempts
    assert result_weights(world, job_id).endswith(scripted_weights(3))


def test_api_killed_between_commit_and_dispatch_has_promised_nothing_it_does_not_keep(world: World) -> None:
    request = build_request(world)
    doomed = world.start_api(failpoint="after_commit_before_dispatch")
    with pytest.raises(httpx.TransportError):
        request.send(doomed)

    # Only hints start jobs here: the database is not polled.
    world.start_worker(poll_seconds=600)
    retried = request.send(world.start_api())
    job = check(world, retried["id"], "succeeded")
    with world.factory() as session:
        assert session.scalars(select(func.count()).select_from(FineTuningJob)).one() == 1
    assert job.attempt == 1


def test_api_killed_before_the_commit_of_several_calls_leaves_nothing_of_them(world: World) -> None:
    request = build_request(world)
    doomed = world.start_api(failpoint="before_group_commit")
    with ThreadPoolExecutor(4) as pool:
        lost = [pool.submit(request.keyed(f"key {number}").send, doomed) for number in range(4)]
    assert all(isinstance(call.exception(), httpx.TransportError) for call in lost)
    assert count_whole_jobs(world) == 0


def test_api_killed_among_many_creates_keeps_what_it_answered_and_nothing_by_halves(world: World) -> None:
    request = build_request(world)
    doomed, process = world.start_api(), world.processes[-1]
    calls = [request.keyed(f"key {number}") for number in range(120)]
    answered: dict[int, str] = {}
    killed = Event()

    def send(number: int) -> None:
        if not killed.is_set():
            answered[number] = calls[number].send(doomed)["id"]
        if len(answered) >= 40 and not killed.is_set():
            killed.set()
            process.popen.kill()

    with ThreadPoolExecutor(16) as pool:
        sent = [pool.submit(send, number) for number in range(len(calls))]
    assert all(isinstance(call.exception(), httpx.TransportError | None) for call in sent)
    assert 40 <= len(answered) < len(calls)

    stored = count_whole_jobs(world)
    assert len(set(answered.values())) == len(answered) <= stored
    again = world.start_api()
    repeated = {number: call.send(again)["id"] for number, call in enumerate(calls)}
    assert answered.items() <= repeated.items()
    assert count_whole_jobs(world) == len(set(repeated.values())) == len(calls)


def count_whole_jobs(world: World) -> int:
    """Return how many jobs there are; each has its key, its event and its hold on the file, and there are no others."""
    with world.factory() as session:
        jobs = set(session.scalars(select(FineTuningJob.id)))
        for parts in (IdempotencyKey.job_id, JobEvent.job_id, FileHold.job_id):
            assert sorted(session.scalars(select(parts))) == sorted(jobs)
        return len(jobs)


def test_drained_worker_hands_its_job_on_uncounted(world: World, job_id: str) -> None:
    leaving = world.start_worker()
    wait_for_checkpoint(world, job_id)
    leaving.send(signal.SIGTERM)
    assert leaving.popen.wait(8) == 0
    assert world.trainers() == []
    wait_for_status(world, job_id, "queued")
    assert read_job(world.factory, job_id).lost_count == 0

    world.start_worker()
    job = check_resumed(world, job_id)
    assert (job.attempt, job.lost_count, job.failed_count) == (2, 0, 0)
    assert outcomes(world, job_id) == ["stopped", "succeeded"]
