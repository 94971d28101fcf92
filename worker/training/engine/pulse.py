"""The trainer's conversation with its observer during long work: signs of life out, wishes to end in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from worker.training.errors import TrainingCancelled, TrainingStopped
from worker.training.events import ProgressEvent

if TYPE_CHECKING:
    from worker.training.observer import Observer

_PROGRESS_SECONDS = 2.0


class Pulse:
    """Asks ``observer`` whether to go on, and tells it about progress, at most every two seconds and at the end."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._told_at = time.monotonic()

    def beat(self, done: int, total: int) -> None:
        """Report ``done`` of ``total`` units.

        Raises:
            TrainingCancelled: The observer wants the run to end.
            TrainingStopped: The observer wants the run to be continued later.
        """
        self.report(done, total)
        if self._observer.stop_requested() == "stop":
            raise TrainingStopped("stopped on request")

    def report(self, done: int, total: int) -> None:
        """Report ``done`` of ``total`` units of work that a stop must let finish.

        Raises:
            TrainingCancelled: The observer wants the run to end.
        """
        if self._observer.stop_requested() == "cancel":
            raise TrainingCancelled("cancelled on request")
        now = time.monotonic()
        if done == total or now - self._told_at >= _PROGRESS_SECONDS:
            self._told_at = now
            self._observer.emit(ProgressEvent(done, total))
