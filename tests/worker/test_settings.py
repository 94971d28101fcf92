"""What an attempt resolves once its rows are built reaches the job, and nobody else can write it."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.db.session import transaction
from app.jobs import lifecycle
from app.jobs.auto import adopt_settings, tell_choices
from tests.worker.scripted_jobs import add_job, read_events, read_job
from worker.context import WorkerContext
from worker.runner import run_available
from worker.training.spec import TrainingSpec
from worker.workspace import prepare

AUTO = {"n_epochs": {"value": 5, "reason": "12 steps a pass, repeated to about 60"}}


def test_settings_that_waited_for_rows_are_on_the_job_and_in_its_history(context: WorkerContext, project: str) -> None:
    told = {"hyperparameters": {"n_epochs": 5, "batch_size": 16}, "auto": AUTO}
    job_id = add_job(context.factory, project, steps=1, settings=told)
    assert run_available(context, job_id) == 1
    job = read_job(context.factory, job_id)
    assert job.status == "succeeded"
    assert job.method["scripted"]["hyperparameters"] == told["hyperparameters"]
    assert job.auto == AUTO
    (event,) = [event for event in read_events(context.factory, job_id) if "Settings chosen" in event.message]
    assert event.message == "Settings chosen: n_epochs 5 (12 steps a pass, repeated to about 60)."
    assert event.data == told


def test_what_a_run_took_is_on_the_job(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project, steps=1)
    assert run_available(context, job_id) == 1
    outcome = read_job(context.factory, job_id).outcome
    assert outcome is not None
    assert outcome["attempts"] == 1
    assert outcome["seconds"] == 2.5
    assert 0 < outcome["wall_seconds"] < 60


def test_a_fenced_attempt_writes_no_settings(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project, steps=1)
    with transaction(context.factory) as session:
        lease = lifecycle.claim(session, worker="w", lease_seconds=60, hint=job_id)
        assert lease is not None
        lifecycle.requeue(session, lease, lifecycle.AttemptRecord("requeue"))
    with pytest.raises(lifecycle.LeaseLostError), transaction(context.factory) as session:
        adopt_settings(session, lease, {"n_epochs": 9}, AUTO)
    assert read_job(context.factory, job_id).auto is None


def test_what_the_operator_sets_for_trainers_reaches_them(context: WorkerContext, project: str, tmp_path: Path) -> None:
    job_id = add_job(context.factory, project, steps=1)
    with transaction(context.factory) as session:
        lease = lifecycle.claim(session, worker="w", lease_seconds=60, hint=job_id)
    assert lease is not None
    chosen = {"worker_threads": 3, "worker_checkpointed_layers": 5, "worker_shard_base": True}
    chosen |= {"worker_hidden_state_cache_bytes": 7}
    prepare(replace(context, settings=context.settings.model_copy(update=chosen)), lease, tmp_path / "workspace")
    runtime = TrainingSpec.model_validate_json((tmp_path / "workspace/spec.json").read_bytes()).runtime
    assert (runtime.threads, runtime.checkpointed_layers, runtime.shard_base) == (3, 5, True)
    assert runtime.hidden_state_cache_bytes == 7


def test_nothing_to_tell_is_said_so() -> None:
    assert tell_choices({}) == "Every setting is the job's own."
