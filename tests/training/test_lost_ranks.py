"""Real processes of one run: asked to stop, killed, orphaned, and started by torchrun itself."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import make_workspace, sum_rows
from tests.worker.scripted_jobs import wait_until
from worker import ranks
from worker.child import Child, build_environment
from worker.training.errors import ExitCode
from worker.training.events import STOP, CheckpointEvent, ErrorEvent, MetricsEvent, ResultEvent, decode
from worker.training.spec import RuntimeSettings

ROOT = Path(__file__).parents[2]
TRAIN = [sys.executable, "-m", "worker.training", "run"]
PAIR = [sys.executable, "-I", "-S", str(ranks.__file__), "2", *TRAIN]
SECONDS = 20.0
"""How long an end may take on a busy machine: the grace of the launcher, and some."""


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: TinyModel, request: pytest.FixtureRequest) -> Path:
    """Return a long run; the parameter, if any, tells whether its base model is sharded."""
    chosen = {"n_epochs": 50, "batch_size": 4}
    runtime = RuntimeSettings(device="cpu", dtype="float32", shard_base=getattr(request, "param", False))
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(200), hyperparameters=chosen, runtime=runtime)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    return tmp_path


@pytest.fixture
def child(workspace: Path) -> Iterator[Child]:
    environment = build_environment(os.environ, threads=1, scratch=workspace)
    started = Child.start(PAIR, workspace=workspace, environment=environment)
    yield started
    if not started.has_finished:
        started.finish()


def wait_for_a_step(child: Child) -> None:
    def has_stepped() -> bool:
        assert not child.has_exited(), child.log_tail or list(child.read(0))
        return any(isinstance(decode(line), MetricsEvent) for line in child.read(0.05))

    wait_until(has_stepped, seconds=240, what="a step")


def wait_for_the_end(child: Child) -> list[bytes]:
    lines: list[bytes] = []

    def has_ended() -> bool:
        lines.extend(child.read(0.05))
        return child.has_exited()

    wait_until(has_ended, seconds=SECONDS, what="the end")
    return lines + child.finish()


def processes_of(launcher: int) -> list[psutil.Process]:
    """Return the processes of the run, the launcher first, then by rank."""
    process = psutil.Process(launcher)
    return [process, *sorted(process.children(), key=lambda one: int(one.environ()["RANK"]))]


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


@pytest.mark.parametrize("workspace", [False, True], ids=["whole", "sharded"], indirect=True)
def test_a_stop_reaches_all_processes_through_the_first(workspace: Path, child: Child) -> None:
    wait_for_a_step(child)
    child.send(STOP)
    events = [decode(line) for line in wait_for_the_end(child)]
    assert child.exit_code == ExitCode.STOPPED
    last = [event for event in events if isinstance(event, CheckpointEvent)][-1]
    assert (workspace / last.path / "manifest.json").is_file()


@pytest.mark.parametrize("workspace", [False, True], ids=["whole", "sharded"], indirect=True)
def test_a_killed_process_ends_the_run_like_a_killed_trainer(workspace: Path, child: Child) -> None:
    wait_for_a_step(child)
    processes = processes_of(child.pid)
    processes[2].kill()
    events = [decode(line) for line in wait_for_the_end(child)]
    assert child.exit_code == -9
    assert [event.code for event in events if isinstance(event, ErrorEvent)] == ["rank_lost"]
    assert are_gone(processes)


PARENT = """
import os, sys
from pathlib import Path
from worker.child import Child, build_environment
workspace, command = Path(sys.argv[1]), sys.argv[2:]
environment = build_environment(os.environ, threads=1, scratch=workspace)
child = Child.start(command, workspace=workspace, environment=environment)
print(child.pid, flush=True)
while not child.has_exited():
    for line in child.read(0.05):
        print(line.decode(), flush=True)
"""


def test_nothing_is_left_when_the_worker_is_killed(workspace: Path) -> None:
    arguments = [sys.executable, "-c", PARENT, str(workspace), *PAIR]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert any(b'"metrics"' in line for line in parent.stdout)
        processes = processes_of(pid)
        began = time.monotonic()
        parent.kill()
        wait_until(lambda: are_gone(processes), seconds=5)
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_torchrun_starts_the_same_run(workspace: Path) -> None:
    spec = (workspace / "spec.json").read_text().replace('"n_epochs":50', '"n_epochs":1')
    (workspace / "spec.json").write_text(spec)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launch, "-m", "worker.training", "run", str(workspace)], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    events = [decode(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    assert isinstance(events[-1], ResultEvent)
    assert events[-1].steps == 50
    assert (workspace / "outputs/adapter_model.safetensors").is_file()
