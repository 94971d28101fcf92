import time
from typing import Any

import redis

from tests.faults.service import build_request
from tests.faults.verdict import check, wait_for_status
from tests.faults.world import World
from tests.worker.scripted_jobs import add_job, add_project, wait_until

NO_POLLS: dict[str, Any] = {"poll_seconds": 600}


def flush(world: World) -> None:
    with redis.Redis.from_url(world.valkey.client_url) as client:
        client.flushall()


def test_flushed_hints_are_sent_again(world: World) -> None:
    project = add_project(world.factory, world.store)
    waiting = [add_job(world.factory, project, steps=2) for _ in range(3)]
    for job_id in waiting:
        world.queue.enqueue_job(job_id)
    flush(world)
    world.start_worker(**NO_POLLS)
    for job_id in waiting:
        assert check(world, job_id, "succeeded").attempt == 1


def test_broker_flushed_under_a_running_worker_still_delivers(world: World) -> None:
    project = add_project(world.factory, world.store)
    running = add_job(world.factory, project, steps=10, step_seconds=0.1)
    world.start_worker(**NO_POLLS)
    world.queue.enqueue_job(running)
    wait_for_status(world, running, "running")
    flush(world)
    later = add_job(world.factory, project, steps=2)
    for job_id in (running, later):
        assert check(world, job_id, "succeeded").attempt == 1


def test_job_created_while_the_broker_is_down_is_accepted_at_once_and_runs(world: World) -> None:
    client = world.start_api()
    request = build_request(world)
    world.valkey.kill()
    began = time.monotonic()
    job = request.send(client)
    assert time.monotonic() - began < 3
    assert job["status"] == "queued"

    world.valkey.start()
    world.start_worker(**NO_POLLS)
    assert check(world, job["id"], "succeeded").attempt == 1


def test_jobs_flow_without_a_broker(world: World) -> None:
    project = add_project(world.factory, world.store)
    running = add_job(world.factory, project, steps=10, step_seconds=0.1)
    world.start_worker(poll_seconds=0.5)
    wait_for_status(world, running, "running")
    world.valkey.kill()
    later = add_job(world.factory, project, steps=2)
    for job_id in (running, later):
        assert check(world, job_id, "succeeded").attempt == 1


def test_worker_consumes_again_after_the_broker_came_back_empty(world: World) -> None:
    project = add_project(world.factory, world.store)
    worker = world.start_worker(**NO_POLLS)
    world.valkey.kill()
    wait_until(lambda: "onnection" in worker.text(), what="the worker misses its broker")
    world.valkey.start()
    flush(world)
    job_id = add_job(world.factory, project, steps=2)
    assert check(world, job_id, "succeeded").attempt == 1
