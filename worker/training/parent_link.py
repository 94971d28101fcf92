"""The child's side of the two pipes of ``events``: reports to the parent, hears wishes and answers, dies with it."""

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
    """An ``Observer`` that writes to ``events`` and learns of a stop or cancel from signals or a control pipe.

    With a control pipe it implements ``Completions`` as well: the parent asks, and its answers come over that pipe.
    """

    def __init__(self, events: BinaryIO) -> None:
        self._events = events
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._cancel = threading.Event()
        self._is_answered = False
        self._news = threading.Condition()
        self._answers: dict[int, CompletionAnswer | None] = {}  # None: asked and not answered yet

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ParentLink":
        """Return a link over the pipes that the environment names; without them events go to standard output.

        SIGTERM and SIGINT then ask for a stop; a second one kills.
        """
        events_fd = environment.get(EVENTS_FD)
        link = cls(sys.stdout.buffer if events_fd is None else os.fdopen(int(events_fd), "wb"))
        if CONTROL_FD in environment:
            control = os.fdopen(int(environment[CONTROL_FD]), "rb")
            link._is_answered = True
            threading.Thread(target=link.listen, args=(control,), name="control", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, link._on_signal)
        return link

    def emit(self, event: Event) -> None:
        """Write ``event`` as one line, at once."""
        with self._writing:
            self._events.write(encode(event))
            self._events.flush()

    def stop_requested(self) -> Literal["stop", "cancel"] | None:
        """Return what the parent asked for; a cancel outranks a stop."""
        if self._cancel.is_set():
            return "cancel"
        return "stop" if self._stop.is_set() else None

    def listen(self, control: BinaryIO) -> None:
        """Follow the control pipe until its end, which means that the parent is gone; then kill the whole group."""
        for line in control:
            if line == CANCEL:
                self._cancel.set()
            elif line == STOP:
                self._stop.set()
            else:
                self._take_answer(line)
        kill_own_group()

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
        if len(encode(request)) > LINE_BYTES:
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

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.set()
        signal.signal(number, signal.SIG_DFL)


def ignore_signals() -> None:
    """Leave it to the process that speaks for all to hear that a run should end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def kill_own_group() -> None:
    """Kill this process, and with it every process of its group when it leads one."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
