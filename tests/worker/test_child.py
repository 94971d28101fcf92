import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.worker.scripted_jobs import SCRIPTED_COMMAND, wait_until
from worker import child as child_module
from worker.child import LOG_FILE, Child, build_environment
from worker.training.events import CANCEL, STOP, MetricsEvent, ResultEvent, decode

StartChild = Callable[..., Child]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    (folder / "tmp").mkdir(parents=True)
    return folder


@pytest.fixture
def start(workspace: Path) -> Iterator[StartChild]:
    children: list[Child] = []

    def start_child(**script: Any) -> Child:
        (workspace / "spec.json").write_text(json.dumps({"hyperparameters": script}))
        environment = build_environment(os.environ, threads=1, scratch=workspace / "tmp")
        children.append(Child.start(SCRIPTED_COMMAND, workspace=workspace, environment=environment))
        return children[-1]

    yield start_child
    for child in children:
        if not child.has_finished:
            child.finish()


def run_to_end(child: Child) -> list[bytes]:
    lines: list[bytes] = []

    def has_ended() -> bool:
        lines.extend(child.read(0.05))
        return child.has_exited()

    wait_until(has_ended, what="the child ends")
    return lines + child.finish()


def read_until(child: Child, text: bytes) -> None:
    wait_until(lambda: any(text in line for line in child.read(0.05)), what=f"the child says {text!r}")


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_events_arrive_in_order_and_the_exit_code_is_known(start: StartChild) -> None:
    child = start(steps=3)
    events = [decode(line) for line in run_to_end(child)]
    assert [event.step for event in events if isinstance(event, MetricsEvent)] == [1, 2, 3]
    assert isinstance(events[-1], ResultEvent)
    assert child.exit_code == 0


@pytest.mark.parametrize(("script", "code"), [({"exit": 10}, 10), ({"signal": 9}, -9), ({"signal": 11}, -11)])
def test_exit_codes_and_signals_are_told_apart(start: StartChild, script: dict[str, int], code: int) -> None:
    child = start(**script)
    run_to_end(child)
    assert child.exit_code == code


@pytest.mark.parametrize(("word", "code"), [(STOP, 13), (CANCEL, 14)])
def test_child_hears_what_it_is_asked(start: StartChild, word: bytes, code: int) -> None:
    child = start(steps=1000, step_seconds=0.05)
    read_until(child, b'"step":1')
    child.send(word)
    run_to_end(child)
    assert child.exit_code == code


def test_child_that_does_not_read_holds_nobody_up_and_gets_everything_once_it_does(start: StartChild) -> None:
    child = start(steps=1000, step_seconds=0.01)
    read_until(child, b'"step":1')
    os.kill(child.pid, signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(40):
        child.send(b"x" * 50_000 + b"\n")
    child.send(CANCEL)
    assert time.monotonic() - began < 2
    list(child.read(0.01))
    os.kill(child.pid, signal.SIGCONT)
    run_to_end(child)
    assert child.exit_code == 14


def test_child_that_was_killed_takes_no_words_and_no_time(start: StartChild) -> None:
    child = start(steps=1000, step_seconds=0.01)
    read_until(child, b'"step":1')
    os.kill(child.pid, signal.SIGSTOP)
    child.send(b"x" * 500_000 + b"\n")
    child.kill()
    began = time.monotonic()
    run_to_end(child)
    assert child.exit_code == -signal.SIGKILL
    assert time.monotonic() - began < 5


def test_child_sees_only_variables_on_the_list(
    start: StartChild, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = (
        "DATABASE_URL",
        "BROKER_URL",
        "STORAGE_URL",
        "NLFT_API_KEY_PEPPER",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
    )
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    run_to_end(start(steps=1, environment=str(workspace.parent)))
    seen = json.loads((workspace.parent / "environment.json").read_text())
    assert not set(secrets) & set(seen)
    assert "secret" not in seen.values()
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["OMP_NUM_THREADS"]) == ("1", "1")
    assert seen["TMPDIR"] == str(workspace / "tmp")


def test_log_is_capped_and_its_end_is_kept(start: StartChild, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES", 10_000)
    child = start(steps=1, noise_bytes=500_000)
    run_to_end(child)
    assert (workspace / LOG_FILE).stat().st_size == 10_000
    assert child.log_tail.endswith("last words\n")
    assert len(child.log_tail) == child_module.LOG_TAIL_BYTES


def test_endless_line_costs_no_memory_and_spoils_nothing(start: StartChild) -> None:
    child = start(steps=2, big_line=3 << 20)
    lines = run_to_end(child)
    assert max(map(len, lines)) < 1000
    assert isinstance(decode(lines[-1]), ResultEvent)


def test_finishing_kills_grandchildren_too(start: StartChild, workspace: Path) -> None:
    child = start(steps=1000, step_seconds=0.05, grandchild=True)
    read_until(child, b'"step":1')
    grandchild = int((workspace.parent / "grandchild.pid").read_text())
    assert is_alive(grandchild)
    child.finish()
    assert child.exit_code == -signal.SIGKILL
    wait_until(lambda: not is_alive(grandchild), seconds=2)


def test_grandchild_that_outlives_its_parent_does_not_outlive_the_attempt(start: StartChild, workspace: Path) -> None:
    child = start(steps=1, grandchild=True)
    run_to_end(child)
    assert child.exit_code == 0
    grandchild = int((workspace.parent / "grandchild.pid").read_text())
    wait_until(lambda: not is_alive(grandchild), seconds=2)


PARENT = """
import json, os, sys, time
from pathlib import Path
from worker.child import Child, build_environment
workspace, command = Path(sys.argv[1]), sys.argv[2:]
environment = build_environment(os.environ, threads=1, scratch=workspace)
print(Child.start(command, workspace=workspace, environment=environment).pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("deaf", [False, True])
def test_child_dies_with_its_parent(workspace: Path, deaf: bool) -> None:
    script = {"steps": 10_000, "step_seconds": 0.05, "deaf": deaf}
    (workspace / "spec.json").write_text(json.dumps({"hyperparameters": script}))
    arguments = [sys.executable, "-c", PARENT, str(workspace), *SCRIPTED_COMMAND]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: "scripted_trainer" in " ".join(psutil.Process(pid).cmdline()[:2]), what="the exec")
        began = time.monotonic()
        parent.kill()
        wait_until(lambda: not is_alive(pid), seconds=5)
    assert time.monotonic() - began < 2


def test_launcher_refuses_to_start_for_a_parent_that_is_gone(workspace: Path) -> None:
    launcher = Path(child_module.__file__).with_name("launch.py")
    nobody = [sys.executable, "-I", "-S", str(launcher), "1", sys.executable, "-c", "print('ran')"]
    result = subprocess.run(nobody, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "died before" in result.stderr


def test_command_that_does_not_exist_ends_like_a_failed_child(workspace: Path) -> None:
    environment = build_environment(os.environ, threads=1, scratch=workspace)
    child = Child.start(["/no/such/program"], workspace=workspace, environment=environment)
    run_to_end(child)
    assert child.exit_code == 1
    assert "FileNotFoundError" in child.log_tail
