"""The trainer that waits for a job, as a real process."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from app.core.settings import Settings
from tests.worker.scripted_jobs import SCRIPTED_COMMAND, wait_until
from tests.worker.waiting_trainers import await_waiting, waiting
from worker.child import LOG_FILE, SCRATCH_DIR, Child, build_environment
from worker.slots import take_slot
from worker.standby import Standby
from worker.training.events import ResultEvent, decode

BuildStandby = Callable[..., Standby]
Fill = Callable[..., Path]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace_dir=tmp_path / "workspaces", worker_threads=1)


@pytest.fixture
def build(settings: Settings) -> Iterator[BuildStandby]:
    built: list[Standby] = []

    def build_standby(command: tuple[str, ...] = SCRIPTED_COMMAND, **changes: Any) -> Standby:
        built.append(Standby(settings.model_copy(update=changes), command))
        return built[-1]

    yield build_standby
    for standby in built:
        standby.close()


@pytest.fixture
def fill(settings: Settings) -> Fill:
    """Return a function that makes the workspace of a job with a script."""

    def fill_workspace(**script: Any) -> Path:
        folder = settings.workspaces / "slot-0" / "job-1"
        (folder / SCRATCH_DIR).mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps({"hyperparameters": script}))
        return folder

    return fill_workspace


def environment_for(workspace: Path) -> dict[str, str]:
    return build_environment(os.environ, threads=1, scratch=workspace / SCRATCH_DIR)


def folders(settings: Settings) -> list[Path]:
    return list(settings.workspaces.glob("standby-*"))


def run_to_end(child: Child) -> list[bytes]:
    lines: list[bytes] = []

    def has_ended() -> bool:
        lines.extend(child.read(0.05))
        return child.has_exited()

    wait_until(has_ended, what="the child ends")
    return lines + child.finish()


def take(standby: Standby, workspace: Path, *, inherited: tuple[int, ...] = (), **variables: str) -> Child | None:
    return standby.take(workspace, environment_for(workspace) | variables, inherited)


def test_waiting_trainer_runs_the_job_that_it_is_given_and_ends(
    build: BuildStandby, settings: Settings, fill: Fill
) -> None:
    standby, workspace = build(), fill(steps=3, noise_bytes=10)
    standby.prepare()
    pid = await_waiting(settings).pid
    child = take(standby, workspace)
    assert child is not None
    assert child.pid == pid
    assert isinstance(decode(run_to_end(child)[-1]), ResultEvent)
    assert child.exit_code == 0
    assert (workspace / LOG_FILE).read_text().endswith("last words\n")
    assert take(standby, workspace) is None


def test_job_sees_the_same_environment_as_in_a_trainer_of_its_own(
    build: BuildStandby, settings: Settings, fill: Fill, tmp_path: Path
) -> None:
    standby, workspace = build(), fill(steps=1, environment=str(tmp_path))
    environment = environment_for(workspace) | {"CUDA_VISIBLE_DEVICES": "3"}
    standby.prepare()
    await_waiting(settings)
    child = standby.take(workspace, environment, ())
    assert child is not None
    run_to_end(child)
    found = json.loads((tmp_path / "environment.json").read_text())

    run_to_end(Child.start(SCRIPTED_COMMAND, workspace=workspace, environment=environment))
    own = json.loads((tmp_path / "environment.json").read_text())
    numbers = ("NLFT_EVENTS_FD", "NLFT_CONTROL_FD")
    assert {name: found[name] for name in found if name not in numbers} == {
        name: own[name] for name in own if name not in numbers
    }
    assert found["TMPDIR"] == str(workspace / SCRATCH_DIR)
    assert found["CUDA_VISIBLE_DEVICES"] == "3"


def test_it_is_known_when_the_waiting_trainer_is_ready(build: BuildStandby, settings: Settings, fill: Fill) -> None:
    standby = build()
    assert not standby.is_ready()
    standby.prepare()
    wait_until(standby.is_ready, what="it is ready")
    assert standby.is_ready()
    child = take(standby, fill(steps=1))
    assert child is not None
    assert not standby.is_ready()
    assert isinstance(decode(run_to_end(child)[-1]), ResultEvent)


def test_job_works_in_its_workspace_and_with_its_scratch_space(
    build: BuildStandby, settings: Settings, fill: Fill
) -> None:
    standby, workspace = build(), fill(steps=1000, step_seconds=0.05)
    standby.prepare()
    process = await_waiting(settings)
    child = take(standby, workspace)
    assert child is not None
    wait_until(lambda: process.cwd() == str(workspace), what="the trainer moves")
    child.finish()


def test_trainer_that_is_given_a_job_holds_its_slot(build: BuildStandby, settings: Settings, fill: Fill) -> None:
    standby = build()
    standby.prepare()
    await_waiting(settings)
    with take_slot(settings.workspaces, 1) as slot:
        assert slot is not None
        child = take(standby, fill(steps=1000, step_seconds=0.05), inherited=(slot.descriptor,))
    assert child is not None
    with take_slot(settings.workspaces, 1) as taken:
        assert taken is None
    child.finish()
    with take_slot(settings.workspaces, 1) as free:
        assert free is not None


def test_trainer_that_was_killed_while_it_waited_gets_no_job(
    build: BuildStandby, settings: Settings, fill: Fill
) -> None:
    standby, workspace = build(), fill(steps=1)
    standby.prepare()
    first = await_waiting(settings)
    first.kill()
    wait_until(lambda: first.status() == psutil.STATUS_ZOMBIE)
    with capture_logs() as logs:
        assert take(standby, workspace) is None
    assert [log["exit_code"] for log in logs] == [-signal.SIGKILL]
    assert waiting(settings) == []
    standby.prepare()
    assert await_waiting(settings).pid != first.pid


def test_trainer_that_cannot_import_is_told_and_gets_no_job(
    build: BuildStandby, settings: Settings, fill: Fill
) -> None:
    standby = build((sys.executable, "-c", "import no_such_module"))
    standby.prepare()
    process = await_waiting(settings)
    wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)
    with capture_logs() as logs:
        assert take(standby, fill(steps=1)) is None
    (log,) = logs
    assert (log["log_level"], log["exit_code"]) == ("warning", 1)
    assert "No module named 'no_such_module'" in log["log"]


def test_trainer_that_was_started_with_other_variables_gets_no_job(
    build: BuildStandby, settings: Settings, fill: Fill
) -> None:
    standby = build()
    standby.prepare()
    process = await_waiting(settings)
    assert take(standby, fill(steps=1), OMP_NUM_THREADS="7") is None
    assert not process.is_running()
    assert folders(settings) == []


def test_dead_one_that_nobody_wanted_is_replaced(build: BuildStandby, settings: Settings) -> None:
    standby = build()
    standby.prepare()
    first = await_waiting(settings)
    first.kill()
    wait_until(lambda: first.status() == psutil.STATUS_ZOMBIE)
    standby.prepare()
    wait_until(lambda: [one.pid for one in waiting(settings)] not in ([], [first.pid]), what="another one waits")


def test_there_is_never_more_than_one(build: BuildStandby, settings: Settings, fill: Fill) -> None:
    standby = build()
    for _ in range(3):
        standby.prepare()
    pid = await_waiting(settings).pid
    child = take(standby, fill(steps=1))
    assert child is not None
    assert child.pid == pid
    run_to_end(child)
    assert waiting(settings) == []


def test_operator_can_do_without(build: BuildStandby, settings: Settings, fill: Fill) -> None:
    standby = build(worker_standby=False)
    before = set(threading.enumerate())
    standby.prepare()
    assert set(threading.enumerate()) <= before
    assert take(standby, fill(steps=1)) is None
    assert folders(settings) == []


def test_closing_is_quick_and_leaves_neither_process_nor_folder(build: BuildStandby, settings: Settings) -> None:
    standby = build()
    standby.prepare()
    process = await_waiting(settings)
    began = time.monotonic()
    standby.close()
    assert time.monotonic() - began < 2
    assert not process.is_running()
    assert folders(settings) == []


def test_trainer_at_work_outlives_the_closing_and_its_folder_goes_with_it(
    build: BuildStandby, settings: Settings, fill: Fill
) -> None:
    standby = build()
    standby.prepare()
    await_waiting(settings)
    child = take(standby, fill(steps=20, step_seconds=0.05))
    assert child is not None
    standby.close()
    assert isinstance(decode(run_to_end(child)[-1]), ResultEvent)
    assert child.exit_code == 0
    wait_until(lambda: folders(settings) == [], what="its folder goes")
