import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from worker.training.events import (
    CANCEL,
    CONTROL_FD,
    EVENTS_FD,
    LINE_BYTES,
    CompletionAnswer,
    CompletionRequest,
    MessageEvent,
    decode,
)

# Asks what the arguments say; ends with the answers as one message, or with what made it give up.
CHILD = """
import os, sys
from worker.training.events import CompletionRequest, MessageEvent
from worker.training.parent_link import ParentLink

link = ParentLink.from_environment(os.environ)
count, size = int(sys.argv[1]), int(sys.argv[2])

def look_up(done, total):
    if link.stop_requested():
        raise InterruptedError(link.stop_requested())

requests = [CompletionRequest(n, "judge", [{"role": "user", "content": str(n) + "?" * size}]) for n in range(count)]
try:
    answers = link.complete(requests, look_up)
    words = " ".join(f"{a.id}:{a.text or a.code}" for a in answers)
except InterruptedError as error:
    words = f"gave up: {error}"
link.emit(MessageEvent("info", words))
"""
TIMEOUT_SECONDS = 30


@dataclass
class Child:
    process: subprocess.Popen[bytes]
    events: BinaryIO
    control: BinaryIO

    def next_request(self) -> CompletionRequest:
        event = decode(self.events.readline())
        assert isinstance(event, CompletionRequest)
        return event

    def answer(self, *numbers: int) -> None:
        answers = (CompletionAnswer(number, text=f"A{number}") for number in numbers)
        self.control.write(b"".join(msgspec.json.encode(answer) + b"\n" for answer in answers))

    def last_words(self) -> str:
        event = decode(self.events.readline())
        assert isinstance(event, MessageEvent)
        assert self.process.wait(TIMEOUT_SECONDS) == 0
        return event.message


@contextmanager
def asking(count: int, size: int = 0) -> Iterator[Child]:
    events_read, events_write = os.pipe()
    control_read, control_write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(count), str(size)],
        pass_fds=(events_write, control_read),
        env={**os.environ, EVENTS_FD: str(events_write), CONTROL_FD: str(control_read)},
        start_new_session=True,
    )
    os.close(events_write)
    os.close(control_read)
    with os.fdopen(events_read, "rb") as events, os.fdopen(control_write, "wb", buffering=0) as control:
        try:
            yield Child(process, events, control)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT_SECONDS)


def test_answers_come_back_in_the_order_of_the_questions_however_they_arrive() -> None:
    with asking(3) as child:
        assert [child.next_request().id for _ in range(3)] == [0, 1, 2]
        child.answer(2, 0)
        child.control.write(b"no answer at all\n")
        child.answer(17, 0, 1)  # unknown, answered before, awaited
        assert child.last_words() == "0:A0 1:A1 2:A2"


def test_only_so_many_questions_are_open_at_a_time() -> None:
    with asking(200) as child:
        assert [child.next_request().id for _ in range(64)] == list(range(64))
        os.set_blocking(child.events.fileno(), False)
        assert child.events.read() is None
        os.set_blocking(child.events.fileno(), True)
        for number in range(200):
            child.answer(number)
            if number + 64 < 200:
                assert child.next_request().id == number + 64
        assert child.last_words().endswith("199:A199")


def test_a_cancel_is_heard_while_no_answer_comes() -> None:
    with asking(2) as child:
        child.next_request()
        child.control.write(CANCEL)
        child.next_request()
        assert child.last_words() == "gave up: cancel"


def test_whoever_waits_for_an_answer_dies_with_the_parent() -> None:
    with asking(1) as child:
        child.next_request()
        child.control.close()
        assert child.process.wait(TIMEOUT_SECONDS) == -signal.SIGKILL


def test_a_question_longer_than_a_line_is_not_sent() -> None:
    with asking(1, LINE_BYTES) as child:
        assert child.last_words() == "0:refused"


def test_without_a_parent_nobody_answers() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {EVENTS_FD, CONTROL_FD}}
    done = subprocess.run([sys.executable, "-c", CHILD, "2", "0"], env=environment, capture_output=True, check=True)
    event = decode(done.stdout)
    assert isinstance(event, MessageEvent)
    assert event.message == "0:unreachable 1:unreachable"
