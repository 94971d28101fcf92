"""One worker's whole way with a job, trainer scripted, everything else real."""

import io
import tarfile
import threading
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from app.db.models import Adapter, Artifact, Checkpoint, File, FineTuningJob
from app.db.session import transaction
from app.jobs import checkpoints, lifecycle
from tests.worker.scripted_jobs import add_job, read_attempts, read_events, read_job, wait_until
from worker.context import WorkerContext
from worker.runner import run_available


def with_settings(context: WorkerContext, **changes: Any) -> WorkerContext:
    return replace(context, settings=context.settings.model_copy(update=changes))


def outcomes(context: WorkerContext, job_id: str) -> list[tuple[str | None, int | None]]:
    return [(attempt.outcome, attempt.exit_code) for attempt in read_attempts(context.factory, job_id)]


def run_until_settled(context: WorkerContext) -> None:
    wait_until(lambda: run_available(context) == 0 and not any_queued(context), what="all jobs settle")


def any_queued(context: WorkerContext) -> bool:
    with context.factory() as session:
        return session.scalars(select(FineTuningJob.id).where(FineTuningJob.status == "queued")).first() is not None


def test_job_runs_to_a_published_result(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project, steps=3)
    assert run_available(context, job_id) == 1

    job = read_job(context.factory, job_id)
    assert (job.status, job.trained_tokens, job.attempt) == ("succeeded", 40, 1)
    assert job.fine_tuned_model == f"ft:tiny-random:tests::{job_id[-8:]}"
    messages = [event.message for event in read_events(context.factory, job_id)]
    assert messages[0] == f"Created fine-tuning job: {job_id}"
    assert "Step 3/3: training loss=0.33" in messages
    assert messages[-1] == f"The job has successfully completed: {job.fine_tuned_model}"
    assert outcomes(context, job_id) == [("succeeded", 0)]


def test_result_is_allow_listed_files_and_a_tar_that_depends_on_them_alone(
    context: WorkerContext, project: str
) -> None:
    twins = [add_job(context.factory, project, steps=3) for _ in range(2)]
    assert run_available(context) == 2
    with context.factory() as session:
        adapter = session.scalars(select(Adapter).where(Adapter.job_id == twins[0])).one()
        names = session.scalars(select(Artifact.name).where(Artifact.owner_id == adapter.id).order_by(Artifact.name))
        assert list(names) == ["adapter_config.json", "adapter_model.safetensors", "metrics.csv"]
        files = [session.get_one(File, each) for job in twins for each in read_job(context.factory, job).result_files]
    assert [file.filename for file in files] == ["metrics.csv", "adapter.tar"] * 2
    assert files[1].sha256 == files[3].sha256
    with tarfile.open(fileobj=io.BytesIO(b"".join(context.store.read(files[1].sha256)))) as archive:
        assert archive.getnames() == ["adapter_config.json", "adapter_model.safetensors", "metrics.csv"]
        assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in archive} == {(0, 0, 0, "")}


@pytest.mark.parametrize(
    ("script", "code", "attempts"),
    [
        (
            {"exit": 10, "error": {"code": "invalid_training_file", "message": "line 3 is bad"}},
            "invalid_training_file",
            1,
        ),
        ({"exit": 12}, "out_of_memory", 1),
        ({"exit": 1}, "internal_error", 2),
        ({"steps": 2, "bad_output": True}, "internal_error", 2),
        ({"signal": 9}, "trainer_killed", 3),
    ],
)
def test_failures_are_final_or_repeated_by_their_kind(
    context: WorkerContext, project: str, *, script: dict[str, Any], code: str, attempts: int
) -> None:
    patient = with_settings(context, max_failed_attempts=2, max_lost_attempts=2, retry_backoff_seconds=0)
    job_id = add_job(context.factory, project, **script)
    run_until_settled(patient)
    job = read_job(context.factory, job_id)
    assert (job.status, job.error_code, job.attempt) == ("failed", code, attempts)
    last = read_events(context.factory, job_id)[-1]
    assert (last.level, last.message) == ("error", job.error_message)
    assert "last words" in (read_attempts(context.factory, job_id)[-1].log_tail or "")


def test_silent_child_is_killed_and_repeated_once(context: WorkerContext, project: str) -> None:
    impatient = with_settings(context, stall_seconds=0.5, retry_backoff_seconds=0)
    job_id = add_job(context.factory, project, steps=4, silent_from=2)
    run_until_settled(impatient)
    job = read_job(context.factory, job_id)
    assert (job.status, job.error_code) == ("failed", "stalled")
    assert outcomes(context, job_id) == [("stalled", -9), ("stalled", -9)]


def test_loading_is_given_twice_the_patience(context: WorkerContext, project: str) -> None:
    impatient = with_settings(context, stall_seconds=1.5)
    job_id = add_job(context.factory, project, steps=1, slow_start=2.0)
    run_until_settled(impatient)
    assert read_job(context.factory, job_id).status == "succeeded"


def test_checkpoints_are_stored_and_leave_the_workspace(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project, steps=6, checkpoint_every=2, step_seconds=0.2)
    thread = threading.Thread(target=run_available, args=(context,))
    thread.start()
    wait_until(lambda: len(list_steps(context, job_id)) >= 2)
    local = context.settings.workspaces / "slot-0" / f"{job_id}-1" / "checkpoints"
    assert len(list(local.iterdir())) <= 1
    thread.join(20)
    assert list_steps(context, job_id) == [6, 4, 2]


def test_damaged_checkpoint_is_passed_over_for_the_one_before(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project, steps=200, checkpoint_every=2, step_seconds=0.1)
    draining = with_draining(context)
    thread = threading.Thread(target=run_available, args=(draining,))
    thread.start()
    wait_until(lambda: len(list_steps(context, job_id)) >= 2)
    draining.draining.set()
    thread.join(20)
    newest, before = list_steps(context, job_id)[:2]
    damage(context, job_id, newest)
    set_script(context, job_id, steps=newest + 2)

    assert run_available(context) == 1
    assert read_attempts(context.factory, job_id)[1].resume_step == before
    assert read_job(context.factory, job_id).status == "succeeded"


def test_checkpoint_that_the_trainer_refuses_is_discarded_not_counted_as_a_failure(
    context: WorkerContext, project: str
) -> None:
    job_id = add_job(context.factory, project, steps=200, checkpoint_every=2, step_seconds=0.1)
    draining = with_draining(context)
    thread = threading.Thread(target=run_available, args=(draining,))
    thread.start()
    wait_until(lambda: list_steps(context, job_id) != [])
    draining.draining.set()
    thread.join(20)
    newest = list_steps(context, job_id)[0]
    set_script(context, job_id, steps=4, exit=1, error={"code": "invalid_checkpoint", "message": "of another run"})
    assert run_available(with_settings(context, retry_backoff_seconds=60)) == 1
    assert newest not in list_steps(context, job_id)
    job = read_job(context.factory, job_id)
    assert (job.failed_count, job.lost_count) == (0, 1)


def test_draining_worker_claims_nothing(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project)
    draining = with_draining(context)
    draining.draining.set()
    assert run_available(draining, job_id) == 0
    assert read_job(context.factory, job_id).attempt == 0


def test_stored_spec_that_cannot_be_read_fails_the_job(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project)
    with transaction(context.factory) as session:
        session.execute(update(FineTuningJob).where(FineTuningJob.id == job_id).values(spec={"version": 99}))
    assert run_available(context) == 1
    job = read_job(context.factory, job_id)
    assert (job.status, job.error_code) == ("failed", "internal_error")


def test_missing_dataset_is_a_loss_until_losses_are_used_up(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project)
    with context.factory() as session:
        context.store.delete(session.scalars(select(File.sha256)).one())
    run_until_settled(with_settings(context, max_lost_attempts=1, retry_backoff_seconds=0))
    job = read_job(context.factory, job_id)
    assert (job.status, job.attempt, job.lost_count) == ("failed", 2, 2)


def test_cancel_before_the_child_has_started_still_ends_cancelled(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project, steps=1000, step_seconds=0.1)
    thread = threading.Thread(target=run_available, args=(context,))
    thread.start()
    wait_until(lambda: read_job(context.factory, job_id).status == "running")
    with transaction(context.factory) as session:
        lifecycle.request_cancel(session, project, job_id)
    thread.join(20)
    assert read_job(context.factory, job_id).status == "cancelled"


def with_draining(context: WorkerContext) -> WorkerContext:
    return replace(context, draining=threading.Event())


def list_steps(context: WorkerContext, job_id: str) -> list[int]:
    with context.factory() as session:
        return [point.step for point in checkpoints.list_resume_points(session, job_id)]


def damage(context: WorkerContext, job_id: str, step: int) -> None:
    with context.factory() as session:
        owner = select(Checkpoint.id).where(Checkpoint.job_id == job_id, Checkpoint.step == step)
        state = select(Artifact.sha256).where(
            Artifact.owner_id == owner.scalar_subquery(), Artifact.name == "state.json"
        )
        context.store.delete(session.scalars(state).one())


def set_script(context: WorkerContext, job_id: str, **script: Any) -> None:
    with transaction(context.factory) as session:
        job = session.get_one(FineTuningJob, job_id)
        job.spec = {**job.spec, "hyperparameters": script}
