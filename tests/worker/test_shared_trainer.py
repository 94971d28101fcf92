"""Several jobs on one base in one process: each ends as it would alone, whatever becomes of the others."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.core.settings import Settings
from app.db.models import FineTuningJob
from app.db.session import SessionFactory, transaction
from app.jobs import checkpoints, lifecycle
from tests.worker.scripted_jobs import add_job, add_project, read_attempts, read_events, read_job, wait_until
from tests.worker.waiting_trainers import folder_of
from worker.context import WorkerContext
from worker.devices import Held
from worker.runner import run_available
from worker.shared_trainer import Share, TrainerGroup
from worker.slots import take_slot
from worker.workspace import Workspace

COMMAND = (sys.executable, str(Path(__file__).with_name("scripted_group.py")))
COMPANY = "on one copy of the base model"
LONG = {"steps": 1000, "step_seconds": 0.05}


@pytest.fixture
def context(quick: Settings, session_factory: SessionFactory) -> Iterator[WorkerContext]:
    allowed = quick.model_copy(update={"worker_jobs_per_base": 4, "retry_backoff_seconds": 0})
    built = WorkerContext.from_settings(allowed, child_command=COMMAND)
    yield built
    built.draining.set()
    built.close()


@pytest.fixture
def project(context: WorkerContext) -> str:
    return add_project(context.factory, context.store)


def add_jobs(context: WorkerContext, project: str, *scripts: dict[str, Any]) -> list[str]:
    return [add_job(context.factory, project, **script) for script in scripts]


@contextmanager
def working(context: WorkerContext) -> Iterator[threading.Thread]:
    """Run what is queued on a thread of its own and wait for its end."""
    thread = threading.Thread(target=run_available, args=(context,), name="slot")
    thread.start()
    try:
        yield thread
    finally:
        thread.join(60)
        assert not thread.is_alive()


def statuses(context: WorkerContext, jobs: Sequence[str]) -> list[str]:
    return [read_job(context.factory, job).status for job in jobs]


def outcomes(context: WorkerContext, job_id: str) -> list[tuple[str | None, int | None]]:
    return [(attempt.outcome, attempt.exit_code) for attempt in read_attempts(context.factory, job_id)]


def company(context: WorkerContext, job_id: str) -> list[int]:
    """Return the attempts that were told of neighbours."""
    return [event.attempt for event in read_events(context.factory, job_id) if COMPANY in event.message]


def has_stepped(context: WorkerContext, *jobs: str) -> bool:
    return all(any("Step" in event.message for event in read_events(context.factory, job)) for job in jobs)


def cancel(context: WorkerContext, project: str, job_id: str) -> None:
    with transaction(context.factory) as session:
        lifecycle.request_cancel(session, project, job_id)


def trainers() -> list[psutil.Process]:
    """Return the trainers of this process but the one that waits for a job."""
    return [one for one in all_trainers() if "standby-" not in folder_of(one)]


def all_trainers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if any("launch.py" in w or "scripted" in w for w in words(one))]


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_jobs_on_one_base_are_attempts_of_their_own_in_one_process(context: WorkerContext, project: str) -> None:
    jobs = add_jobs(context, project, *({"steps": steps, "step_seconds": 0.1} for steps in (5, 20, 3, 8, 2)))
    with working(context):
        wait_until(lambda: has_stepped(context, *jobs[:4]), what="four train at once")
        assert len(trainers()) == 1
        leases = [read_job(context.factory, job).lease_token for job in jobs]
        assert len(set(leases[:4]) - {None}) >= 2
        assert leases[4] is None
    assert statuses(context, jobs) == ["succeeded"] * 5
    assert [outcomes(context, job) for job in jobs] == [[("succeeded", 0)]] * 5
    assert [company(context, job) for job in jobs] == [[1]] * 4 + [[]]
    found = [(read_job(context.factory, job).outcome or {}).get("jobs_on_base") for job in jobs]
    assert found == [4, 4, 4, 4, None]
    steps = [sum("Step" in event.message for event in read_events(context.factory, job)) for job in jobs]
    assert steps == [5, 20, 3, 8, 2]
    assert list(context.settings.workspaces.glob("slot-0/*")) == []


def test_it_is_off_by_default(context: WorkerContext, quick: Settings, project: str) -> None:
    assert quick.worker_jobs_per_base == 1
    jobs = add_jobs(context, project, {"steps": 1}, {"steps": 1})
    assert run_available(replace(context, settings=quick)) == 2
    assert statuses(context, jobs) == ["succeeded"] * 2
    assert [company(context, job) for job in jobs] == [[], []]


def test_another_idle_device_takes_the_next_job(context: WorkerContext, project: str) -> None:
    jobs = add_jobs(context, project, {"steps": 1}, {"steps": 1})
    settings = context.settings.model_copy(update={"worker_devices": "cpu:2"})
    assert run_available(replace(context, settings=settings)) == 2
    assert [company(context, job) for job in jobs] == [[], []]


def test_a_cancel_reaches_one_job(context: WorkerContext, project: str) -> None:
    jobs = add_jobs(context, project, {"steps": 60, "step_seconds": 0.05}, LONG, {"steps": 60, "step_seconds": 0.05})
    with working(context):
        wait_until(lambda: has_stepped(context, *jobs))
        cancel(context, project, jobs[1])
    assert statuses(context, jobs) == ["succeeded", "cancelled", "succeeded"]
    assert outcomes(context, jobs[1]) == [("cancelled", 14)]


def test_a_job_that_does_not_hear_its_cancel_is_cut_off_and_its_neighbours_go_on(
    context: WorkerContext, project: str
) -> None:
    hasty = replace(context, settings=context.settings.model_copy(update={"stop_grace_seconds": 0.5}))
    jobs = add_jobs(context, project, {**LONG, "deaf": True}, {"steps": 60, "step_seconds": 0.1})
    with working(hasty):
        wait_until(lambda: has_stepped(context, *jobs))
        cancel(context, project, jobs[0])
        wait_until(lambda: read_job(context.factory, jobs[0]).status == "cancelled", what="cut off")
        assert read_job(context.factory, jobs[1]).status == "running"
    assert statuses(context, jobs) == ["cancelled", "succeeded"]
    assert outcomes(context, jobs[0]) == [("cancelled", -9)]


def test_a_process_in_which_nobody_listens_any_more_is_killed(context: WorkerContext, project: str) -> None:
    hasty = replace(context, settings=context.settings.model_copy(update={"stop_grace_seconds": 0.5}))
    jobs = add_jobs(context, project, {**LONG, "deaf": True}, {**LONG, "deaf": True})
    with working(hasty):
        wait_until(lambda: has_stepped(context, *jobs))
        for job in jobs:
            cancel(context, project, job)
    assert statuses(context, jobs) == ["cancelled", "cancelled"]
    assert trainers() == []


BAD_ROWS = {"exit": 10, "error": {"code": "invalid_training_file", "message": "line 3 is bad"}}


def test_a_fault_of_its_own_ends_one_job(context: WorkerContext, project: str) -> None:
    jobs = add_jobs(context, project, {"steps": 20, "step_seconds": 0.05}, BAD_ROWS, {"steps": 3})
    assert run_available(context) == 3
    assert statuses(context, jobs) == ["succeeded", "failed", "succeeded"]
    assert outcomes(context, jobs[1]) == [("refused", 10)]
    assert read_job(context.factory, jobs[1]).error_code == "invalid_training_file"


@pytest.mark.parametrize(("status", "code"), [(1, "internal_error"), (12, "out_of_memory")])
def test_what_neighbours_may_have_a_part_in_is_believed_of_a_job_alone(
    context: WorkerContext, project: str, status: int, code: str
) -> None:
    jobs = add_jobs(context, project, {"steps": 20, "step_seconds": 0.05}, {"exit": status})
    run_until_settled(context, jobs)
    assert statuses(context, jobs) == ["succeeded", "failed"]
    last = "failed" if status == 1 else "refused"
    assert outcomes(context, jobs[1]) == [("lost", status), (last, status)]
    assert company(context, jobs[1]) == [1]
    assert read_job(context.factory, jobs[1]).error_code == code
    assert company(context, jobs[0]) == [1]
    assert outcomes(context, jobs[0]) == [("succeeded", 0)]


def test_a_silent_job_is_cut_off_as_a_loss_and_its_neighbour_goes_on(context: WorkerContext, project: str) -> None:
    changes = {"stall_seconds": 5.0, "retry_backoff_seconds": 60.0}
    impatient = replace(context, settings=context.settings.model_copy(update=changes))
    jobs = add_jobs(context, project, {"steps": 120, "step_seconds": 0.1}, {"steps": 4, "silent_from": 2})
    with working(impatient):
        wait_until(lambda: outcomes(context, jobs[1]) == [("lost", -9)], what="cut off")
        assert read_job(context.factory, jobs[0]).status == "running"
    assert statuses(context, jobs) == ["succeeded", "queued"]
    assert read_job(context.factory, jobs[1]).lost_count == 1


def test_a_process_that_dies_is_one_loss_of_each_and_company_for_none_again(
    context: WorkerContext, project: str
) -> None:
    plain = {"steps": 30, "step_seconds": 0.05, "checkpoint_every": 5}
    jobs = add_jobs(context, project, plain, {**plain, "kill_group": 12}, plain)
    run_until_settled(context, jobs)
    assert statuses(context, jobs) == ["succeeded"] * 3
    for job in jobs:
        assert outcomes(context, job) == [("lost", -9), ("succeeded", 0)]
        assert company(context, job) == [1]
        row = read_job(context.factory, job)
        assert (row.lost_count, row.failed_count) == (1, 0)
        assert (read_attempts(context.factory, job)[1].resume_step or 0) >= 5


def test_a_drain_stops_each_and_the_next_worker_takes_them_on_together(context: WorkerContext, project: str) -> None:
    jobs = add_jobs(context, project, *[{"steps": 40, "step_seconds": 0.05, "checkpoint_every": 100}] * 3)
    leaving = replace(context, draining=threading.Event())
    with working(leaving):
        wait_until(lambda: has_stepped(context, *jobs))
        leaving.draining.set()
    assert statuses(context, jobs) == ["queued"] * 3
    with context.factory() as session:
        assert all(checkpoints.list_resume_points(session, job) for job in jobs)
    assert run_available(context) == 3
    assert statuses(context, jobs) == ["succeeded"] * 3
    for job in jobs:
        assert outcomes(context, job) == [("stopped", 13), ("succeeded", 0)]
        assert read_job(context.factory, job).lost_count == 0
        assert company(context, job) == [1, 2]
        assert (read_attempts(context.factory, job)[1].resume_step or 0) > 0


def test_a_job_that_cannot_be_prepared_holds_nobody_up(context: WorkerContext, project: str) -> None:
    jobs = add_jobs(context, project, {"steps": 2}, {"steps": 2}, {"steps": 2})
    with transaction(context.factory) as session:
        row = session.get_one(FineTuningJob, jobs[0])
        row.spec = {**row.spec, "version": 99}
    assert run_available(context) == 3
    assert statuses(context, jobs) == ["failed", "succeeded", "succeeded"]
    assert (read_job(context.factory, jobs[1]).outcome or {})["jobs_on_base"] == 2


def test_a_job_whose_company_has_withdrawn_is_one_alone(context: WorkerContext, project: str) -> None:
    jobs = add_jobs(context, project, {"steps": 2}, {"exit": 1})
    with transaction(context.factory) as session:
        row = session.get_one(FineTuningJob, jobs[0])
        row.spec = {**row.spec, "version": 99}
    run_until_settled(context, jobs)
    assert outcomes(context, jobs[1]) == [("failed", 1)]
    assert company(context, jobs[1]) == []


def test_a_job_moved_on_by_somebody_else_is_let_go_at_once(context: WorkerContext, project: str) -> None:
    jobs = add_jobs(context, project, LONG, {"steps": 40, "step_seconds": 0.1})
    with working(context):
        wait_until(lambda: has_stepped(context, *jobs))
        with transaction(context.factory) as session:
            row = session.get_one(FineTuningJob, jobs[0])
            lease = lifecycle.Lease(row.id, row.attempt, row.lease_token or pytest.fail("not running"))
            lifecycle.cancelled(session, lease, lifecycle.AttemptRecord("taken"))
    assert statuses(context, jobs) == ["cancelled", "succeeded"]
    assert outcomes(context, jobs[0]) == [("taken", None)]


def test_lines_that_belong_to_no_run_and_no_events_change_nothing(context: WorkerContext, project: str) -> None:
    jobs = add_jobs(context, project, {"steps": 2, "garbage": 3}, {"steps": 2, "big_line": 3 << 20})
    assert run_available(context) == 2
    assert statuses(context, jobs) == ["succeeded", "succeeded"]


def test_a_process_that_cannot_be_started_is_told_to_everybody(context: WorkerContext, tmp_path: Path) -> None:
    told: list[str] = []
    workspace = Workspace(tmp_path, "proj", None, 1, 1)

    def attempt(share: Share) -> None:
        with pytest.raises(OSError, match="could not be started"):
            share.start(workspace)
        told.append("told")

    with take_slot(tmp_path / "slots", 1) as slot:
        assert slot is not None
        (slot.folder / "group").touch()
        TrainerGroup(context, slot, Held()).run([attempt, attempt])
    assert told == ["told", "told"]


def run_until_settled(context: WorkerContext, jobs: Sequence[str]) -> None:
    def is_settled() -> bool:
        run_available(context)
        return not {"queued", "running"} & set(statuses(context, jobs))

    wait_until(is_settled, seconds=60, what="all jobs settle")
