"""The whole service with the real trainer on a random model: interrupted or not, the same bytes come out."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from app.db.models import BaseModel
from app.db.session import transaction
from tests.faults.service import Request, build_request
from tests.faults.verdict import check, result_weights, wait_for_checkpoint, wait_for_end
from tests.faults.world import World
from tests.fixtures.tiny_models import TinyModel, reference_to
from tests.worker.scripted_jobs import read_attempts, wait_until

HYPERPARAMETERS = {"n_epochs": 20, "batch_size": 1, "learning_rate": 0.001}


@pytest.fixture
def request_call(world: World, tiny_model: TinyModel) -> Request:
    built = build_request(world)
    use_model(world, built.body["model"], tiny_model())
    method = {"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}}
    return Request(built.headers, {**built.body, "method": method, "seed": 7})


def use_model(world: World, name: str, folder: Path) -> None:
    with transaction(world.factory) as session:
        row = session.get_one(BaseModel, name)
        row.path, row.digest = str(folder), reference_to(folder).digest


def create(client: httpx.Client, call: Request, key: str) -> str:
    job: dict[str, Any] = Request({**call.headers, "Idempotency-Key": key}, call.body).send(client)
    return str(job["id"])


def test_killed_training_resumes_and_ends_with_the_bytes_of_an_uninterrupted_one(
    world: World, request_call: Request
) -> None:
    client = world.start_api()
    worker = world.start_worker(module="worker")
    whole = create(client, request_call, "whole")
    check(world, whole, "succeeded")

    broken = create(client, request_call, "broken")
    wait_for_checkpoint(world, broken, seconds=120)
    for trainer in world.trainers():
        trainer.kill()
    job = check(world, broken, "succeeded")

    first, second = read_attempts(world.factory, broken)
    assert (first.outcome, job.attempt) == ("lost", 2)
    assert (second.resume_step or 0) > 0
    assert job.trained_tokens is not None
    assert result_weights(world, broken) == result_weights(world, whole)
    assert worker.popen.poll() is None


def test_trainer_that_has_waited_ends_with_the_bytes_of_one_that_has_not(world: World, request_call: Request) -> None:
    client = world.start_api()
    alone = world.start_worker(module="worker", worker_standby=False)
    own = create(client, request_call, "own")
    check(world, own, "succeeded")
    alone.kill()

    worker = world.start_worker(module="worker")
    wait_until(lambda: len(world.trainers()) == 1, what="a trainer waits")
    waited = create(client, request_call, "waited")
    check(world, waited, "succeeded")
    assert '"has_waited":true' in worker.text()
    assert '"has_waited":true' not in alone.text()
    assert result_weights(world, waited) == result_weights(world, own)


@pytest.mark.slow
def test_a_job_on_two_devices_survives_the_loss_of_one_of_its_processes(world: World, request_call: Request) -> None:
    client = world.start_api(worker_devices="cpu:2")
    world.start_worker(module="worker", worker_devices="cpu:2", stall_seconds=240.0)
    method = {"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS, "n_gpus": 2}}
    job_id = create(client, Request(request_call.headers, {**request_call.body, "method": method}), "two")
    wait_for_checkpoint(world, job_id, seconds=120)
    second = [one for one in world.trainers() if one.environ().get("RANK") == "1"]
    assert len(second) == 1
    second[0].kill()
    wait_for_end(world, job_id, seconds=120)
    job = check(world, job_id, "succeeded")
    lost, resumed = read_attempts(world.factory, job_id)
    assert (lost.outcome, lost.exit_code, job.attempt) == ("lost", -9, 2)
    assert (resumed.resume_step or 0) > 0
    assert job.method["supervised"]["n_gpus"] == 2
