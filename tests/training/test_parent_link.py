import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import pytest

from worker.training.events import CANCEL, CONTROL_FD, EVENTS_FD, STOP, MessageEvent, decode

# Reports what it is asked whenever that changes, until it is killed or told to cancel.
CHILD = """
import os, subprocess, sys, threading
from worker.training.events import MessageEvent
from worker.training.parent_link import ParentLink

link = ParentLink.from_environment(os.environ)
pipe = int(os.environ["NLFT_EVENTS_FD"])
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[pipe])
link.emit(MessageEvent("info", "ready"))
told = None
pause = threading.Event()
while told != "cancel":
    pause.wait(0.01)
    if link.stop_requested() != told:
        told = link.stop_requested()
        link.emit(MessageEvent("info", told))
grandchild.kill()
"""
TIMEOUT_SECONDS = 30


@dataclass
class Child:
    process: subprocess.Popen[bytes]
    events: BinaryIO
    control: BinaryIO

    def next_message(self) -> str:
        event = decode(self.events.readline())
        assert isinstance(event, MessageEvent)
        return event.message


@contextmanager
def started() -> Iterator[Child]:
    events_read, events_write = os.pipe()
    control_read, control_write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        pass_fds=(events_write, control_read),
        env={**os.environ, EVENTS_FD: str(events_write), CONTROL_FD: str(control_read)},
        start_new_session=True,
    )
    os.close(events_write)
    os.close(control_read)
    with os.fdopen(events_read, "rb") as events, os.fdopen(control_write, "wb", buffering=0) as control:
        child = Child(process, events, control)
        try:
            assert child.next_message() == "ready"
            yield child
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT_SECONDS)


def test_stop_then_cancel_are_heard_in_this_order() -> None:
    with started() as child:
        child.control.write(STOP)
        assert child.next_message() == "stop"
        child.control.write(CANCEL)
        assert child.next_message() == "cancel"
        assert child.process.wait(TIMEOUT_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_stop_and_a_second_one_kills(number: signal.Signals) -> None:
    with started() as child:
        child.process.send_signal(number)
        assert child.next_message() == "stop"
        child.process.send_signal(number)
        assert child.process.wait(TIMEOUT_SECONDS) == -number


def test_the_whole_group_dies_with_the_parent() -> None:
    with started() as child:
        child.control.close()
        assert child.process.wait(TIMEOUT_SECONDS) == -signal.SIGKILL
        assert child.events.read() == b""  # the grandchild held the pipe too: its end says that both are gone


def test_without_pipes_events_go_to_standard_output() -> None:
    program = (
        "import os; from worker.training.parent_link import ParentLink; from worker.training.events import PhaseEvent;"
        "ParentLink.from_environment(os.environ).emit(PhaseEvent('saving'))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in {EVENTS_FD, CONTROL_FD}}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout == b'{"type":"phase","phase":"saving"}\n'
