"""The child's side of ``group_protocol``: a ``ParentLink`` for every run of the process, over the same pipes."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from worker.training.events import CONTROL_FD, LINE_BYTES
from worker.training.group_protocol import NUMBER_BYTES, end_line, number_line, split_line
from worker.training.parent_link import ParentLink, listen, on_signal, open_events

if TYPE_CHECKING:
    from collections.abc import Mapping


class GroupLinks:
    """The links of several runs, by their numbers.

    Args:
        environment: Names the pipes.
        count: Of the runs.
    """

    def __init__(self, environment: Mapping[str, str], count: int) -> None:
        self._send = open_events(environment)
        self.runs = [
            ParentLink(
                partial(self._say, number),
                is_answered=CONTROL_FD in environment,
                line_bytes=LINE_BYTES - NUMBER_BYTES,
            )
            for number in range(count)
        ]
        listen(environment, self._hear)
        on_signal(self._stop)

    def end(self, number: int, status: int) -> None:
        """Say that a run has ended with the exit status ``status``."""
        self._say(number, end_line(status))

    def _say(self, number: int, line: bytes) -> None:
        self._send(number_line(number, line))

    def _hear(self, line: bytes) -> None:
        """Hand a line on; one that is for nobody is dropped."""
        with suppress(ValueError, IndexError):
            number, rest = split_line(line)
            self.runs[number].hear(rest)

    def _stop(self) -> None:
        for run in self.runs:
            run.stop()
