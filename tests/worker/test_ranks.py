"""The launcher of several processes, with programs that import nothing: who is told what, and who ends whom."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.worker.scripted_jobs import wait_until
from worker import ranks
from worker.child import Child, build_environment
from worker.training.engine.parallel import STORE_FD
from worker.training.events import CONTROL_FD, EVENTS_FD

LAUNCH = [sys.executable, "-I", "-S", str(ranks.__file__), "3"]
TELL = """
import json, os, sys
from pathlib import Path
rank, folder = os.environ["RANK"], Path(sys.argv[1])
Path(folder, rank).write_text(json.dumps([os.getpid(), os.getppid(), dict(os.environ)]))
"""
WAIT = TELL + "import time\ntime.sleep(600)\n"


def run(script: str, folder: Path) -> int:
    command = [*LAUNCH, sys.executable, "-S", "-c", script, str(folder)]
    return subprocess.run(command, check=False, timeout=60).returncode


def told(folder: Path) -> list[tuple[int, int, dict[str, str]]]:
    return [tuple(json.loads((folder / str(rank)).read_text())) for rank in range(3)]


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def have_started(folder: Path) -> bool:
    return all((folder / str(rank)).exists() and (folder / str(rank)).read_text() for rank in range(3))


def test_processes_are_told_who_they_are_as_by_torchrun(tmp_path: Path) -> None:
    assert run(TELL, tmp_path) == 0
    environments = [environment for _, _, environment in told(tmp_path)]
    assert [(one["RANK"], one["LOCAL_RANK"]) for one in environments] == [("0", "0"), ("1", "1"), ("2", "2")]
    shared = [{one["WORLD_SIZE"], one["MASTER_ADDR"]} for one in environments]
    assert shared == [{"3", "127.0.0.1"}] * 3
    assert len({one["MASTER_PORT"] for one in environments}) == 1
    assert [STORE_FD in one for one in environments] == [True, False, False]


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        (["sys.exit(0)", "sys.exit(0)", "sys.exit(0)"], 0),
        (["time.sleep(600)", "sys.exit(12)", "sys.exit(0)"], 12),
        (["sys.exit(13)", "sys.exit(13)", "sys.exit(13)"], 13),
        (["time.sleep(600)", "os.kill(os.getpid(), 9)", "time.sleep(600)"], -9),
        (["sys.exit(1)", "os.kill(os.getpid(), 11)", "sys.exit(1)"], -11),
    ],
    ids=["all well", "one fails", "all stopped", "one killed", "one crashed, the others noticed"],
)
def test_the_run_ends_as_its_processes_do_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[str], status: int
) -> None:
    script = f"{TELL}\nimport time\nexec({ends!r}[int(rank)])\n"
    began = time.monotonic()
    assert run(script, tmp_path) == status
    assert time.monotonic() - began < ranks.GRACE_SECONDS + 10
    assert not any(is_alive(pid) for pid, _, _ in told(tmp_path))


def test_processes_die_with_their_launcher(tmp_path: Path) -> None:
    with subprocess.Popen([*LAUNCH, sys.executable, "-S", "-c", WAIT, str(tmp_path)]) as launcher:
        wait_until(lambda: have_started(tmp_path), what="three processes")
        launcher.kill()
    wait_until(lambda: not any(is_alive(pid) for pid, _, _ in told(tmp_path)), seconds=5)


def test_a_request_to_stop_does_not_end_the_launcher(tmp_path: Path) -> None:
    heard = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(13))\n"
    with subprocess.Popen([*LAUNCH, sys.executable, "-S", "-c", heard + WAIT, str(tmp_path)]) as launcher:
        wait_until(lambda: have_started(tmp_path), what="three processes")
        launcher.send_signal(signal.SIGTERM)
        for pid, _, _ in told(tmp_path):
            os.kill(pid, signal.SIGTERM)
        assert launcher.wait(timeout=30) == 13


SPEAK = f"""
import fcntl, os, sys
rank = os.environ["RANK"]
pipes = [name in os.environ for name in ("{EVENTS_FD}", "{CONTROL_FD}")]
if rank == "0":
    os.write(int(os.environ["{EVENTS_FD}"]), b"hello\\n")
    os.read(int(os.environ["{CONTROL_FD}"]), 5)
open(os.path.join(sys.argv[1], rank), "w").write(f"{{pipes}} {{os.path.exists('/proc/self/fd/' + sys.argv[2])}}")
"""


def test_the_first_process_alone_has_the_pipes_and_all_hold_the_slot(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    environment = build_environment(os.environ, threads=1, scratch=tmp_path)
    command = [*LAUNCH, sys.executable, "-S", "-c", SPEAK, str(tmp_path), str(descriptor)]
    child = Child.start(command, workspace=tmp_path, environment=environment, inherited=(descriptor,))
    wait_until(lambda: b"hello" in list(child.read(0.05)), what="the first process speaks")
    child.send(b"stop\n")
    wait_until(lambda: bool(list(child.read(0.05))) or child.has_exited(), what="the end")
    child.finish()
    os.close(descriptor)
    assert child.exit_code == 0
    words = [(tmp_path / str(rank)).read_text() for rank in range(3)]
    assert words == ["[True, True] True", "[False, False] True", "[False, False] True"]
