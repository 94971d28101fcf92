"""Jobs that share a base, with the real trainer and with killed processes: each ends once, with its own result."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from app.db.models import BaseModel
from app.db.session import transaction
from tests.faults.service import Request, build_request
from tests.faults.verdict import (
    check,
    result_weights,
    scripted_weights,
    wait_for_checkpoint,
    wait_for_end,
    wait_for_status,
)
from tests.faults.world import World
from tests.fixtures.tiny_models import TinyModel, reference_to
from tests.training.multi_lora.runs import distance
from tests.worker.scripted_jobs import add_job, add_project, read_attempts, read_events, read_job, wait_until

SCRIPTED = "tests.faults.grouped_worker"
# A claim passes over rows that another transaction holds, and a reconciler, the API's too, holds those it announces.
QUIET: dict[str, Any] = {"reconcile_seconds": 600.0}
TOGETHER: dict[str, Any] = {"worker_jobs_per_base": 4, **QUIET}
STEPS = 30
SCRIPT = {"steps": STEPS, "step_seconds": 0.3, "checkpoint_every": 5}
QUICK = {"n_epochs": 8, "batch_size": 1, "learning_rate": 0.001}
# A worker takes bfloat16 where the machine has it. What AdamW makes of other last bits in 96 steps stays below what it
# makes of one gradient; adapters of other seeds differ by a hundred times that. In float32 the bound is 1e-5: see
# tests/training/test_group_command.py.
TOLERANCE = 0.001
MAD = {**QUICK, "learning_rate_multiplier": 1e38}


def outcomes(world: World, job_id: str) -> list[str | None]:
    return [attempt.outcome for attempt in read_attempts(world.factory, job_id)]


def company(world: World, job_id: str) -> list[int]:
    """Return the attempts that were told of neighbours."""
    return [event.attempt for event in read_events(world.factory, job_id) if event.message.startswith("Trained beside")]


@pytest.fixture
def scripted(world: World) -> list[str]:
    """Three jobs that queue before any worker is there."""
    project = add_project(world.factory, world.store)
    return [add_job(world.factory, project, **SCRIPT) for _ in range(3)]


def wait_for_checkpoints(world: World, jobs: Sequence[str]) -> None:
    for job in jobs:
        wait_for_checkpoint(world, job, seconds=120)


def test_a_killed_child_costs_each_of_its_jobs_one_attempt_and_none_its_result(
    world: World, scripted: list[str]
) -> None:
    world.start_worker(module=SCRIPTED, **TOGETHER)
    wait_for_checkpoints(world, scripted)
    for trainer in world.trainers():
        trainer.kill()
    for job_id in scripted:
        job = check(world, job_id, "succeeded")
        assert result_weights(world, job_id).endswith(scripted_weights(STEPS))
        assert outcomes(world, job_id) == ["lost", "succeeded"]
        assert (company(world, job_id), job.lost_count) == ([1], 1)
        assert (read_attempts(world.factory, job_id)[-1].resume_step or 0) >= 5


def test_a_killed_worker_takes_the_child_along_and_each_job_is_resumed_alone(world: World, scripted: list[str]) -> None:
    first = world.start_worker(module=SCRIPTED, **TOGETHER)
    wait_for_checkpoints(world, scripted)
    first.kill()
    wait_until(lambda: world.trainers() == [], seconds=5, what="the child follows its worker")
    assert {read_job(world.factory, job).status for job in scripted} == {"running"}

    world.start_worker(module=SCRIPTED, worker_jobs_per_base=4)
    for job_id in scripted:
        check(world, job_id, "succeeded")
        assert result_weights(world, job_id).endswith(scripted_weights(STEPS))
        assert (outcomes(world, job_id), company(world, job_id)) == (["lost", "succeeded"], [1])


@pytest.mark.parametrize("failpoint", ["after_claim", "before_publish_commit", "after_publish_commit"])
def test_a_worker_that_dies_at_a_crash_point_leaves_one_result_of_each(world: World, failpoint: str) -> None:
    project = add_project(world.factory, world.store)
    jobs = [add_job(world.factory, project, steps=steps, step_seconds=0.1) for steps in (3, 4, 40)]
    doomed = world.start_doomed_worker(module=SCRIPTED, worker_jobs_per_base=4, failpoint=failpoint)
    assert doomed.popen.wait(30) == -signal.SIGKILL

    world.start_worker(module=SCRIPTED, worker_jobs_per_base=4)
    for job_id, steps in zip(jobs, (3, 4, 40), strict=True):
        check(world, job_id, "succeeded")
        assert result_weights(world, job_id).endswith(scripted_weights(steps))


def test_a_drained_worker_hands_each_job_on_uncounted(world: World) -> None:
    # Slow enough that none ends while the checkpoints of all are awaited on a busy machine.
    project = add_project(world.factory, world.store)
    scripted = [add_job(world.factory, project, **{**SCRIPT, "step_seconds": 0.6}) for _ in range(3)]
    leaving = world.start_worker(module=SCRIPTED, **TOGETHER)
    wait_for_checkpoints(world, scripted)
    leaving.send(signal.SIGTERM)
    assert leaving.popen.wait(8) == 0
    assert world.trainers() == []
    for job_id in scripted:
        wait_for_status(world, job_id, "queued")

    world.start_worker(module=SCRIPTED, **TOGETHER)
    for job_id in scripted:
        job = check(world, job_id, "succeeded")
        assert result_weights(world, job_id).endswith(scripted_weights(STEPS))
        assert (outcomes(world, job_id), job.lost_count) == (["stopped", "succeeded"], 0)
        assert company(world, job_id) == [1, 2]


class Service:
    """The API of a world, and jobs of one project that differ in seed and settings."""

    def __init__(self, world: World, model: Path, rows: int = 12) -> None:
        self._call = build_request(world, rows)
        self._client = world.start_api(**QUIET)
        with transaction(world.factory) as session:
            row = session.get_one(BaseModel, self._call.body["model"])
            row.path, row.digest = str(model), reference_to(model).digest

    def create(self, key: str, seed: int, hyperparameters: dict[str, Any] = QUICK) -> str:
        method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
        headers = {**self._call.headers, "Idempotency-Key": key}
        body = {**self._call.body, "method": method, "seed": seed}
        return str(Request(headers, body).send(self._client)["id"])

    def cancel(self, job_id: str) -> None:
        answer = self._client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel", headers=self._call.headers)
        assert answer.status_code == 200, answer.text


@pytest.fixture
def service(world: World, tiny_model: TinyModel) -> Service:
    return Service(world, tiny_model())


def weights_apart(world: World, one: str, other: str) -> float:
    """Return the largest difference between two published adapters."""
    return distance(load(result_weights(world, one)), load(result_weights(world, other)))


def test_jobs_trained_together_have_the_adapters_of_jobs_alone_whatever_a_neighbour_does(
    world: World, service: Service
) -> None:
    together = [service.create(f"together-{seed}", seed) for seed in range(3)]
    mad = service.create("mad", 3, MAD)
    world.start_worker(module="worker", stall_seconds=240.0, **TOGETHER)
    for job_id in together:
        wait_for_end(world, job_id, seconds=240)
        job = check(world, job_id, "succeeded")
        assert (outcomes(world, job_id), company(world, job_id)) == (["succeeded"], [1])
        assert (job.outcome or {})["jobs_on_base"] == 4
    assert check(world, mad, "failed").error_code == "non_finite_loss"
    assert outcomes(world, mad) == ["refused"]

    alone = service.create("alone", seed=0)
    check(world, alone, "succeeded")
    assert company(world, alone) == []
    assert weights_apart(world, together[0], alone) <= TOLERANCE
    assert weights_apart(world, *together[:2]) > 100 * TOLERANCE


@pytest.mark.slow
def test_a_cancel_and_a_killed_trainer_leave_each_other_job_with_one_adapter(
    world: World, tiny_model: TinyModel
) -> None:
    # Long enough that none ends while the cancel takes effect, and a lease that outlasts the noting of so many steps.
    service = Service(world, tiny_model(), rows=240)
    jobs = [service.create(f"job-{seed}", seed) for seed in range(2)]
    cancelled = service.create("cancelled", 2)
    world.start_worker(module="worker", stall_seconds=240.0, lease_seconds=12, **TOGETHER)
    wait_for_checkpoints(world, jobs)
    service.cancel(cancelled)
    wait_for_status(world, cancelled, "cancelled")
    for trainer in world.trainers():
        trainer.kill()
    for job_id in jobs:
        wait_for_end(world, job_id, seconds=240)
        job = check(world, job_id, "succeeded")
        assert (job.lost_count, company(world, job_id)) == (1, [1])
    assert check(world, cancelled, "cancelled").attempt == 1
    assert outcomes(world, cancelled) == ["cancelled"]
