import json
from typing import Any

import pytest
import redis
from celery import Celery

from app.db.session import transaction
from app.jobs import lifecycle
from app.queue import QUEUE_NAME, RUN_JOB
from tests.faults.verdict import check, wait_for_status
from tests.faults.world import World
from tests.worker.scripted_jobs import add_job, add_project, read_job, wait_until


def send(world: World, task: str = RUN_JOB, **body: Any) -> None:
    with Celery("forger", broker=world.valkey.url, set_as_current=False) as forger:
        forger.send_task(task, kwargs=body, queue=QUEUE_NAME, ignore_result=True)


def test_duplicate_stale_and_forged_messages_do_no_harm(world: World) -> None:
    project = add_project(world.factory, world.store)
    worker = world.start_worker()
    job_id = add_job(world.factory, project, steps=10, step_seconds=0.05)
    for _ in range(5):
        send(world, version=1, job_id=job_id)
    send(world, version=1, job_id="ftjob-unknown")
    send(world, version=99, job_id=["not", {"a": "string"}])
    send(world, job_id="'; DROP TABLE fine_tuning_jobs; --", surplus="x" * 10_000)
    send(world, "nlft.no_such_task", job_id=job_id)
    with redis.Redis.from_url(world.valkey.client_url) as client:
        client.lpush(QUEUE_NAME, json.dumps({"body": "gA==", "content-type": "application/x-python-serialize"}))

    assert check(world, job_id, "succeeded").attempt == 1
    send(world, version=1, job_id=job_id)
    later = add_job(world.factory, project, steps=2)
    send(world, version=1, job_id=later)
    assert check(world, later, "succeeded").attempt == 1
    assert read_job(world.factory, job_id).attempt == 1
    assert worker.popen.poll() is None, worker.text()


@pytest.mark.parametrize("deaf", [False, True])
def test_cancel_ends_a_running_job_and_its_child(world: World, deaf: bool) -> None:
    project = add_project(world.factory, world.store)
    job_id = add_job(world.factory, project, steps=500, step_seconds=0.1, deaf=deaf)
    world.start_worker(stop_grace_seconds=1)
    send(world, version=1, job_id=job_id)
    wait_for_status(world, job_id, "running")
    wait_until(lambda: bool(world.trainers_at_work()), what="the child runs")
    with transaction(world.factory) as session:
        lifecycle.request_cancel(session, project, job_id)
    job = check(world, job_id, "cancelled")
    assert job.finished_at is not None
    assert job.cancel_requested_at is not None
    assert (job.finished_at - job.cancel_requested_at).total_seconds() < 5
