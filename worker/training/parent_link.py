"""The child's side of the two pipes of ``events``: reports to the parent, hears its wishes, dies with it."""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import BinaryIO, Literal

from worker.training.events import CANCEL, CONTROL_FD, EVENTS_FD, STOP, Event, encode


class ParentLink:
    """An ``Observer`` that writes to ``events`` and learns of a stop or cancel from signals or a control pipe."""

    def __init__(self, events: BinaryIO) -> None:
        self._events = events
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._cancel = threading.Event()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ParentLink":
        """Return a link over the pipes that the environment names; without them events go to standard output.

        SIGTERM and SIGINT then ask for a stop; a second one kills.
        """
        events_fd = environment.get(EVENTS_FD)
        link = cls(sys.stdout.buffer if events_fd is None else os.fdopen(int(events_fd), "wb"))
        if CONTROL_FD in environment:
            control = os.fdopen(int(environment[CONTROL_FD]), "rb")
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
        kill_own_group()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.set()
        signal.signal(number, signal.SIG_DFL)


def kill_own_group() -> None:
    """Kill this process, and with it every process of its group when it leads one."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
