"""Keeps the parts of the service running: a part that ends is started again, with patience that ends too."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from app.cli.output import CommandError
from app.embedded.errors import EmbeddedServerError

_MAX_ENDS = 5
_WINDOW_SECONDS = 120.0
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 10.0


class Part(Protocol):
    """A process or server that can be started again."""

    def is_running(self) -> bool:
        """Tell whether it runs."""

    def start(self) -> None:
        """Start it."""


@dataclass
class _Record:
    part: Part
    ends: deque[float] = field(default_factory=deque)
    next_start: float = 0.0
    is_down: bool = False


class Watch:
    """Looks after named parts.

    Args:
        parts: Running parts by name.
        report: Told when a part ended and when it is started again.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self, parts: dict[str, Part], report: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._records = {name: _Record(part) for name, part in parts.items()}
        self._report = report
        self._clock = clock

    def check(self) -> None:
        """Start again what has ended, waiting longer after each end.

        Raises:
            CommandError: A part ended more than five times within two minutes.
        """
        now = self._clock()
        for name, record in self._records.items():
            if not record.is_down and not record.part.is_running():
                self._note_end(name, record, now)
            if record.is_down and now >= record.next_start:
                self._start(name, record)

    def _note_end(self, name: str, record: _Record, now: float) -> None:
        record.is_down = True
        while record.ends and record.ends[0] < now - _WINDOW_SECONDS:
            record.ends.popleft()
        wait = min(_FIRST_WAIT_SECONDS * 2 ** len(record.ends), _LONGEST_WAIT_SECONDS)
        record.ends.append(now)
        if len(record.ends) > _MAX_ENDS:
            raise CommandError(f"{name} ended {len(record.ends)} times within {_WINDOW_SECONDS:.0f} s; giving up.")
        record.next_start = now + wait
        self._report(f"{name} ended; starting it again in {wait:g} s")

    def _start(self, name: str, record: _Record) -> None:
        try:
            record.part.start()
        except EmbeddedServerError as error:
            self._report(f"{name}: {error}")
        # A start that failed is seen as the next end.
        record.is_down = False
