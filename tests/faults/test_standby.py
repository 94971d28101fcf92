"""A worker process and the trainer that waits for its next job: neither outlives the other's need for it."""

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.verdict import check, wait_for_checkpoint, wait_for_status
from tests.faults.world import Process, World
from tests.worker.scripted_jobs import add_job, add_project, read_attempts, wait_until


def await_waiting(world: World) -> psutil.Process:
    wait_until(lambda: len(world.trainers()) == 1, what="a trainer waits")
    (process,) = world.trainers()
    assert world.trainers_at_work() == []
    return process


def start_at_work(world: World, steps: int, step_seconds: float) -> tuple[Process, str]:
    """Start a worker, give its waiting trainer a job, and return both once the job has a checkpoint."""
    worker = world.start_worker()
    await_waiting(world)
    script = {"steps": steps, "step_seconds": step_seconds, "checkpoint_every": 5}
    job_id = add_job(world.factory, add_project(world.factory, world.store), **script)
    world.queue.enqueue_job(job_id)
    wait_for_checkpoint(world, job_id)
    return worker, job_id


def starts(worker: Process) -> list[bool]:
    """Return for every attempt whether its trainer had waited for it."""
    lines = [json.loads(line) for line in worker.text().splitlines() if '"trainer starts"' in line]
    return [line["has_waited"] for line in lines]


def test_worker_has_a_trainer_waiting_and_gives_it_the_job(world: World) -> None:
    worker = world.start_worker(worker_devices="2,5")
    waiting = await_waiting(world)
    project = add_project(world.factory, world.store)
    job_id = add_job(world.factory, project, steps=2, environment=str(world.root))
    world.queue.enqueue_job(job_id)
    check(world, job_id, "succeeded")
    assert starts(worker) == [True]
    environment = json.loads((world.root / "environment.json").read_text())
    workspace = Path(environment["TMPDIR"]).parent
    assert workspace.name == f"{job_id}-1"
    assert environment["CUDA_VISIBLE_DEVICES"] == {"slot-0": "2", "slot-1": "5"}[workspace.parent.name]
    assert await_waiting(world).pid != waiting.pid


def test_killed_worker_takes_its_waiting_trainer_along(world: World) -> None:
    worker = world.start_worker()
    waiting = await_waiting(world)
    worker.kill()
    wait_until(lambda: not waiting.is_running(), seconds=2, what="the trainer follows its worker")
    assert world.trainers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_that_is_asked_to_go_does_not_wait_for_it(world: World, number: signal.Signals) -> None:
    worker = world.start_worker()
    await_waiting(world)
    began = time.monotonic()
    worker.send(number)
    assert worker.popen.wait(8) == 0
    assert time.monotonic() - began < 5
    assert world.trainers() == []


def test_trainer_killed_while_it_waits_costs_no_attempt(world: World) -> None:
    worker = world.start_worker()
    await_waiting(world).kill()
    job_id = add_job(world.factory, add_project(world.factory, world.store), steps=2)
    world.queue.enqueue_job(job_id)
    job = check(world, job_id, "succeeded")
    assert (job.attempt, job.lost_count) == (1, 0)
    assert starts(worker) == [False]
    assert "waiting trainer of no use" in worker.text()


def test_trainer_killed_over_its_job_is_a_counted_loss_as_ever(world: World) -> None:
    worker, job_id = start_at_work(world, steps=20, step_seconds=0.3)
    (trainer,) = world.trainers_at_work()
    trainer.kill()
    job = check(world, job_id, "succeeded")
    assert (job.attempt, job.lost_count, job.failed_count) == (2, 1, 0)
    lost, resumed = read_attempts(world.factory, job_id)
    assert (lost.outcome, lost.exit_code) == ("lost", -signal.SIGKILL)
    assert (resumed.resume_step or 0) >= 5
    assert starts(worker)[0] is True


def test_drained_worker_starts_no_other_trainer_to_wait(world: World) -> None:
    worker, job_id = start_at_work(world, steps=200, step_seconds=0.1)
    worker.send(signal.SIGTERM)
    assert worker.popen.wait(8) == 0
    assert world.trainers() == []
    wait_for_status(world, job_id, "queued")
    assert starts(worker) == [True]
