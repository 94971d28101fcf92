"""A worker gives its jobs to trainers that have waited for them: nothing else about the jobs is different."""

from dataclasses import replace
from typing import Any

from structlog.testing import capture_logs

from app.db.session import transaction
from tests.worker.scripted_jobs import (
    SCRIPTED_COMMAND,
    add_job,
    read_attempts,
    read_events,
    read_job,
    submit_job,
    wait_until,
)
from tests.worker.waiting_trainers import await_waiting, waiting
from worker.context import WorkerContext
from worker.runner import run_available
from worker.standby import Standby


def has_waited(logs: list[Any]) -> list[bool]:
    return [log["has_waited"] for log in logs if log["event"] == "trainer starts"]


def without_standby(context: WorkerContext) -> WorkerContext:
    settings = context.settings.model_copy(update={"worker_standby": False})
    return replace(context, settings=settings, standby=Standby(settings, SCRIPTED_COMMAND))


def story(context: WorkerContext, job_id: str) -> list[tuple[str, str]]:
    events = read_events(context.factory, job_id)
    return [(event.type, event.message.replace(job_id, "J").replace(job_id[-8:], "J")) for event in events]


def test_outcome_and_events_are_those_of_a_trainer_of_its_own(context: WorkerContext, project: str) -> None:
    script = {"steps": 5, "checkpoint_every": 2, "step_seconds": 0.02}
    cold, warm = (add_job(context.factory, project, **script) for _ in range(2))
    with capture_logs() as logs:
        assert run_available(without_standby(context), cold) == 2
    assert has_waited(logs) == [False, False]
    context.standby.prepare()
    await_waiting(context.settings)
    other = add_job(context.factory, project, **script)
    with capture_logs() as logs:
        assert run_available(context, other) == 1
    assert has_waited(logs) == [True]
    assert story(context, other) == story(context, cold) == story(context, warm)
    assert read_job(context.factory, other).status == "succeeded"


def test_every_job_has_a_trainer_of_its_own_and_the_next_one_waits_once_it_is_done(
    context: WorkerContext, project: str
) -> None:
    jobs = [add_job(context.factory, project, steps=2) for _ in range(3)]
    with capture_logs() as logs:
        assert run_available(context, jobs[0]) == 3
    assert has_waited(logs) == [False, True, True]
    assert [read_job(context.factory, job).status for job in jobs] == ["succeeded"] * 3
    assert await_waiting(context.settings).is_running()


def test_waiting_trainer_that_fails_over_its_job_is_a_failed_attempt(context: WorkerContext, project: str) -> None:
    context.standby.prepare()
    await_waiting(context.settings)
    settings = context.settings.model_copy(update={"max_lost_attempts": 2, "retry_backoff_seconds": 0})
    job_id = add_job(context.factory, project, signal=9)
    with capture_logs() as logs:
        wait_until(lambda: run_available(replace(context, settings=settings)) == 0, what="the job is settled")
    assert has_waited(logs)[0] is True
    attempts = [(one.outcome, one.exit_code) for one in read_attempts(context.factory, job_id)]
    assert attempts == [("lost", -9)] * 3
    assert read_job(context.factory, job_id).error_code == "trainer_killed"


def test_job_of_several_processes_leaves_the_waiting_trainer_alone(context: WorkerContext, project: str) -> None:
    settings = context.settings.model_copy(update={"worker_devices": "cpu:2"})
    context.standby.prepare()
    process = await_waiting(settings)
    with transaction(context.factory) as session:
        job_id = submit_job(session, project, {"steps": 2}, n_gpus=2)
    with capture_logs() as logs:
        assert run_available(replace(context, settings=settings), job_id) == 1
    assert has_waited(logs) == [False]
    assert read_job(context.factory, job_id).status == "succeeded"
    assert process.is_running()


def test_nothing_waits_any_more_once_the_worker_is_to_go(context: WorkerContext, project: str) -> None:
    context.standby.prepare()
    process = await_waiting(context.settings)
    job_id = add_job(context.factory, project, steps=1)
    assert run_available(context, job_id) == 1
    await_waiting(context.settings)
    context.draining.set()
    context.standby.close()
    assert waiting(context.settings) == []
    assert not process.is_running()
