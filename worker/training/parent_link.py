"""The child's side of the two channels of ``events``: reports to the parent, hears wishes and answers, dies with it."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import BinaryIO, Literal

import msgspec

from worker.training.completions import NoCompletions
from worker.training.events import (
    CANCEL,
    CONTROL_FD,
    EVENTS_FD,
    LINE_BYTES,
    STOP,
    CompletionAnswer,
    CompletionRequest,
    Event,
    encode,
)

_IN_FLIGHT = 64
_LOOK_UP_SECONDS = 0.1
_decode_answer = msgspec.json.Decoder(CompletionAnswer).decode


class ParentLink:
    """An ``Observer`` that writes to ``events`` and learns of a stop or cancel from signals or a control channel.

    With a control channel it implements ``Completions`` as well: the parent asks, its answers come over that channel.

    Args:
        send: Takes one line for the parent; called from any thread.
        is_answered: Whether there is a control channel.
        line_bytes: Longest line that ``send`` takes.
    """

    def __init__(
        self, send: Callable[[bytes], None], *, is_answered: bool = False, line_bytes: int = LINE_BYTES
    ) -> None:
        self._send = send
        self._is_answered = is_answered
        self._line_bytes = line_bytes
        self._stop = threading.Event()
        self._cancel = threading.Event()
        self._news = threading.Condition()
        self._answers: dict[int, CompletionAnswer | None] = {}  # None: asked and not answered yet

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ParentLink":
        """Return a link over the pipes that the environment names; without them events go to standard output.

        SIGTERM and SIGINT then ask for a stop; a second one kills.
        """
        link = cls(open_events(environment), is_answered=CONTROL_FD in environment)
        listen(environment, link.hear)
        on_signal(link.stop)
        return link

    def emit(self, event: Event) -> None:
        """Write ``event`` as one line, at once."""
        self._send(encode(event))

    def stop_requested(self) -> Literal["stop", "cancel"] | None:
        """Return what the parent asked for; a cancel outranks a stop."""
        if self._cancel.is_set():
            return "cancel"
        return "stop" if self._stop.is_set() else None

    def stop(self) -> None:
        """Ask for a stop."""
        self._stop.set()

    def hear(self, line: bytes) -> None:
        """Take a line of the control channel."""
        if line == CANCEL:
            self._cancel.set()
        elif line == STOP:
            self._stop.set()
        else:
            self._take_answer(line)

    def complete(
        self, requests: Sequence[CompletionRequest], on_done: Callable[[int, int], None]
    ) -> list[CompletionAnswer]:
        """Return one answer per request, in their order; see ``Completions``.

        ``on_done`` is also called every tenth of a second while nothing arrives, so that a stop or cancel is heard.
        """
        if not self._is_answered:
            return NoCompletions().complete(requests, on_done)
        done: dict[int, CompletionAnswer] = {}
        waiting = list(reversed(requests))
        open_ids: set[int] = set()
        try:
            while len(done) < len(requests):
                while waiting and len(open_ids) < _IN_FLIGHT:
                    self._ask(waiting.pop(), open_ids, done)
                done |= self._await_answers(open_ids)
                on_done(len(done), len(requests))
        finally:
            with self._news:
                for number in open_ids:
                    self._answers.pop(number, None)
        return [done[request.id] for request in requests]

    def _ask(self, request: CompletionRequest, open_ids: set[int], done: dict[int, CompletionAnswer]) -> None:
        if len(encode(request)) > self._line_bytes:
            done[request.id] = CompletionAnswer(request.id, code="refused", error="the question is too long")
            return
        with self._news:
            self._answers[request.id] = None
        open_ids.add(request.id)
        self.emit(request)

    def _await_answers(self, open_ids: set[int]) -> dict[int, CompletionAnswer]:
        """Wait a moment for an answer to any of ``open_ids``; return those that are there and close their ids."""
        arrived: dict[int, CompletionAnswer] = {}
        with self._news:
            if open_ids and not any(self._answers[number] for number in open_ids):
                self._news.wait(_LOOK_UP_SECONDS)
            for number in list(open_ids):
                if answer := self._answers[number]:
                    arrived[number] = answer
                    del self._answers[number]
                    open_ids.discard(number)
        return arrived

    def _take_answer(self, line: bytes) -> None:
        """Note an answer; one that nobody waits for any more, or that is none, is dropped."""
        try:
            answer = _decode_answer(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        with self._news:
            if answer.id in self._answers:
                self._answers[answer.id] = answer
                self._news.notify_all()


def open_events(environment: Mapping[str, str]) -> Callable[[bytes], None]:
    """Return a function that writes a line to the events pipe, without one to standard output; any thread may call."""
    events_fd = environment.get(EVENTS_FD)
    events = sys.stdout.buffer if events_fd is None else os.fdopen(int(events_fd), "wb")
    writing = threading.Lock()

    def send(line: bytes) -> None:
        with writing:
            events.write(line)
            events.flush()

    return send


def listen(environment: Mapping[str, str], hear: Callable[[bytes], None]) -> None:
    """Hand the lines of the control pipe, if there is one, to ``hear``, on a thread of its own.

    Its end means that the parent is gone; then the whole group is killed.
    """
    if CONTROL_FD not in environment:
        return

    def follow(control: BinaryIO) -> None:
        for line in control:
            hear(line)
        kill_own_group()

    control = os.fdopen(int(environment[CONTROL_FD]), "rb")
    threading.Thread(target=follow, args=(control,), name="control", daemon=True).start()


def on_signal(stop: Callable[[], None]) -> None:
    """Call ``stop`` at SIGTERM and SIGINT; a second one kills."""

    def handle(number: int, _frame: FrameType | None) -> None:
        stop()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def ignore_signals() -> None:
    """Leave it to the process that speaks for all to hear that a run should end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def kill_own_group() -> None:
    """Kill this process, and with it every process of its group when it leads one."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
