"""Runs contestants against one another: a process each, in turn, round after round."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Self

from bench.trainer.environments import python_of
from bench.trainer.pace import GO
from bench.trainer.points import ROOT
from bench.trainer.variants import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

NOT_RUN = "not run: "
_LAST_LINES = 12


@dataclass(slots=True)
class Measurement:
    """What a contestant did.

    Attributes:
        variant: Its name.
        seconds: Of every measured step, in the order of the rounds.
        peak_bytes: Most memory held above the loaded model.
        error: Why it could not be measured; begins with ``NOT_RUN`` where its packages are not here or refuse.
    """

    variant: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    error: str | None = None


class ContestantFailed(Exception):  # noqa: N818 - the field's word
    """A contestant's process ended early: the end of what it printed, or why it did not begin."""


class Contestant:
    """A process that takes a step whenever it is told to; see ``pace``."""

    def __init__(self, point: str, variant: str, steps: int, log: IO[str]) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [python_of(VARIANTS[variant].environment), "-m", "bench.trainer.child", point, variant, str(steps)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def hear(self) -> dict[str, Any]:
        """Return the process's next answer.

        Raises:
            ContestantFailed: There is none, or it is that it cannot run.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            ended = f"ended by {signal.Signals(-code).name} (SIGKILL: memory ran out); " if code < 0 else ""
            raise ContestantFailed(ended + "".join(self._log.readlines()[-_LAST_LINES:]).strip())
        found: dict[str, Any] = json.loads(line)
        if "not_run" in found:
            raise ContestantFailed(f"{NOT_RUN}{found['not_run']}")
        return found

    def step(self) -> dict[str, Any]:
        """Let the process take a step and return its figures.

        Raises:
            ContestantFailed: It did not survive it.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{GO}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.hear()


def compete(
    point: str, variants: Sequence[str], *, rounds: int, open_log: Callable[[str], IO[str]], tell: Callable[[str], None]
) -> Iterator[dict[str, Measurement]]:
    """Measure ``variants`` at ``point``, one step each to warm up, then ``rounds`` in turn.

    Yields all measurements so far by name after every round. A contestant that fails is out, and its measurement says
    why. One that takes a single step is gone before the others are loaded: what it holds would leave them no memory.
    """
    found = {name: Measurement(name) for name in variants}
    for name in (name for name in variants if VARIANTS[name].once):
        with open_log(name) as log, Contestant(point, name, 1, log) as contestant:
            _load(found[name], contestant, warms_up=False)
            if not found[name].error:
                _step(found[name], contestant)
        tell(f"{point}: {name} {_fate(found[name])}")
    with ExitStack() as stack:
        running: dict[str, Contestant] = {}
        for name in (name for name in variants if not VARIANTS[name].once):
            log = stack.enter_context(open_log(name))
            running[name] = stack.enter_context(Contestant(point, name, rounds + 1, log))
            _load(found[name], running[name], warms_up=True)
            tell(f"{point}: {name} {_fate(found[name])}")
        for number in range(1, rounds + 1):
            for name, contestant in running.items():
                if not found[name].error:
                    _step(found[name], contestant)
            tell(f"{point}: round {number} of {rounds}")
            yield found


def _fate(measurement: Measurement) -> str:
    if measurement.error:
        return "cannot be run here" if measurement.error.startswith(NOT_RUN) else "failed"
    return "is done" if measurement.seconds else "is ready"


def _load(measurement: Measurement, contestant: Contestant, *, warms_up: bool) -> None:
    """Wait until the contestant is loaded, and let it take its step to warm up."""
    try:
        contestant.hear()
        if warms_up:
            contestant.step()
    except ContestantFailed as failure:
        measurement.error = str(failure)


def _step(measurement: Measurement, contestant: Contestant) -> None:
    """Let the contestant take a measured step."""
    try:
        figures = contestant.step()
    except ContestantFailed as failure:
        measurement.error = str(failure)
        return
    measurement.seconds.append(figures["seconds"])
    measurement.peak_bytes = max(measurement.peak_bytes, figures["peak_bytes"])
