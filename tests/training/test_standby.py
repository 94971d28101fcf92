"""The trainer's side of waiting for a job, in the real program."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import pytest

from tests.worker.scripted_jobs import wait_until
from worker.training.events import CONTROL_FD, EVENTS_FD, Assignment, ErrorEvent, decode
from worker.training.standby import READY_FILE

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "worker.training", "run", "--stand-by"]
# Does what ``run`` does up to its job, then tells what the job finds.
TELL = [
    sys.executable,
    "-c",
    "import json, os, sys, tempfile\n"
    "from pathlib import Path\n"
    "from worker.training.standby import await_job\n"
    "before = tempfile.gettempdir()\n"
    "workspace = await_job(Path(sys.argv[1]), os.environ)\n"
    "rest = os.read(int(os.environ['NLFT_CONTROL_FD']), 100).decode()\n"
    "facts = [os.getcwd(), str(workspace), before, tempfile.gettempdir(), os.environ['WORD'], rest]\n"
    "print(json.dumps([*facts, os.listdir('/proc/self/fd')]))\n",
]


@dataclass
class Waiting:
    """A process that waits for a job, and the parent's ends of its channels."""

    process: subprocess.Popen[bytes]
    events: IO[bytes]
    control: socket.socket

    def assign(self, workspace: Path, *, files: tuple[int, ...] = (), rest: bytes = b"", **variables: str) -> None:
        line = msgspec.json.encode(Assignment(str(workspace), variables)) + b"\n"
        socket.send_fds(self.control, [line + rest], files)


def start(command: list[str], folder: Path) -> Waiting:
    reading, writing = os.pipe()
    own, control = socket.socketpair()
    process = subprocess.Popen(
        [*command, str(folder)],
        cwd=ROOT,
        env=os.environ | {EVENTS_FD: str(writing), CONTROL_FD: str(control.fileno())},
        pass_fds=(writing, control.fileno()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    control.close()
    wait_until((folder / READY_FILE).exists, seconds=120, what="it is ready")
    return Waiting(process, os.fdopen(reading, "rb"), own)


@pytest.fixture
def started() -> Iterator[list[Waiting]]:
    built: list[Waiting] = []
    yield built
    for one in built:
        one.process.kill()
        one.process.communicate()
        one.events.close()
        one.control.close()


def test_job_comes_with_folder_variables_and_open_files(started: list[Waiting], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    started.append(waiting := start(TELL, tmp_path))
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        files = (first.fileno(), second.fileno())
        waiting.assign(tmp_path, files=files, rest=b"stop\n", TMPDIR=str(scratch), WORD="yes")
        output, errors = waiting.process.communicate(timeout=60)
    assert waiting.process.returncode == 0, errors
    folder, workspace, before, after, word, rest, open_files = json.loads(output)
    assert folder == workspace == str(tmp_path)
    assert (before, after) == (tempfile.gettempdir(), str(scratch))
    assert (word, rest) == ("yes", "stop\n")
    # Its three streams, two channels, two files, and the listing itself.
    assert len(open_files) == 8


def test_without_a_parent_it_ends(started: list[Waiting], tmp_path: Path) -> None:
    started.append(waiting := start(TELL, tmp_path))
    waiting.control.close()
    assert waiting.process.wait(60) == 0


def test_the_program_waits_and_then_runs_what_it_is_given(started: list[Waiting], tmp_path: Path) -> None:
    started.append(waiting := start(RUN, tmp_path))
    waiting.assign(tmp_path)
    complaint = decode(waiting.events.readline())
    assert isinstance(complaint, ErrorEvent)
    assert "no readable spec.json" in complaint.message
    assert waiting.process.wait(60) == 11


def test_imports_ask_for_no_device_and_leave_collection_on() -> None:
    program = """
import gc
from worker.training import environment
import torch

asked = []
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_capability"):
    setattr(torch.cuda, name, lambda *_, name=name: asked.append(name))
import worker.training.__main__

assert not asked, asked
assert not torch.cuda.is_initialized()
assert gc.isenabled() and gc.get_freeze_count() > 100_000
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
