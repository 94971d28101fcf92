"""The latest that a child has said about itself, shared by the threads that supervise it."""

import threading
import time
from collections.abc import Callable

from app.jobs.leases import Heartbeat
from worker.training.events import Event, MetricsEvent, PhaseEvent, ProgressEvent


class ProgressBoard:
    """Phase, progress and signs of life of one attempt. Safe to use from several threads.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = "preparing"
        self._phase_progress: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._first_step: tuple[float, int] | None = None
        self._last_step: tuple[float, int] | None = None
        self._last_sign = self._clock()

    def note(self, event: Event) -> None:
        """Take in an event; any event is a sign of life."""
        with self._lock:
            self._last_sign = self._clock()
            match event:
                case PhaseEvent():
                    self._phase, self._phase_progress = event.phase, {}
                case ProgressEvent():
                    self._phase_progress = {"done": event.done, "total": event.total}
                case MetricsEvent():
                    self._steps = {"step": event.step, "total_steps": event.total_steps}
                    self._last_step = (self._last_sign, event.step)
                    self._first_step = self._first_step or self._last_step

    def enter(self, phase: str) -> None:
        """Note a phase that the parent itself is in."""
        with self._lock:
            self._last_sign = self._clock()
            self._phase, self._phase_progress = phase, {}

    def touch(self) -> None:
        """Note a sign of life that is no event: the child is waiting for its parent."""
        with self._lock:
            self._last_sign = self._clock()

    def silence_seconds(self) -> float:
        """Return how long nothing was heard."""
        with self._lock:
            return self._clock() - self._last_sign

    def has_stepped(self) -> bool:
        """Return whether an optimizer step was reported."""
        with self._lock:
            return self._last_step is not None

    def heartbeat(self) -> Heartbeat:
        """Return what the next renewal should say."""
        with self._lock:
            return Heartbeat(self._phase, {**self._phase_progress, **self._steps}, self._remaining_seconds())

    def _remaining_seconds(self) -> float | None:
        if self._first_step is None or self._last_step is None or self._last_step[1] <= self._first_step[1]:
            return None
        pace = (self._last_step[0] - self._first_step[0]) / (self._last_step[1] - self._first_step[1])
        return pace * (self._steps["total_steps"] - self._last_step[1])
