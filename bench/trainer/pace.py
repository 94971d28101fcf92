"""What a contestant's process and the driver tell each other, and the clock and memory meter between them.

The driver writes ``go`` for every step; the child answers each with one line of JSON. So the driver decides whose turn
it is, and contestants that wait cost nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

GO = "go"
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Pace:
    """A contestant's steps: the first warms up, the others are measured.

    Args:
        steps: All of them.
        device: ``cpu`` measures CPU time and resident memory of this process, ``cuda`` wall time up to a
            synchronisation and the allocator's peak.
        orders: Where the driver's words come from.
        answers: Where the figures go; see ``claim_output``.
    """

    def __init__(self, steps: int, device: str, orders: TextIO, answers: TextIO) -> None:
        self.steps = steps
        self._device = device
        self._orders, self._answers = orders, answers
        self._taken = 0
        self._started = 0.0
        self._floor = 0

    def begin(self) -> None:
        """Wait for the driver's word and start the clock; the first call marks the end of loading."""
        if not self._taken:
            self._floor = reset_peak(self._device)
            tell(self._answers, {"ready": True, "loaded_bytes": self._floor})
        if self._orders.readline().strip() != GO:
            sys.exit(0)
        self._started = now(self._device)

    def end(self, seconds: float | None = None) -> None:
        """Stop the clock and tell the driver how long the step took and the most memory held since loading.

        A contestant that measures for itself gives its ``seconds``.
        """
        seconds = now(self._device) - self._started if seconds is None else seconds
        self._taken += 1
        tell(self._answers, {"seconds": seconds, "peak_bytes": max(0, peak(self._device) - self._floor)})

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure what is done inside as one step."""
        self.begin()
        yield
        self.end()


def claim_output() -> TextIO:
    """Return this process's standard output, for answers alone; from now on prints go to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def tell(answers: TextIO, figures: dict[str, Any]) -> None:
    """Send the driver a line of ``figures``."""
    answers.write(json.dumps(figures) + "\n")
    answers.flush()


def now(device: str) -> float:
    """Return the time in seconds: of this process on all its cores, or of the wall once the GPU has caught up."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def reset_peak(device: str) -> int:
    """Forget earlier peaks and return the bytes held now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with suppress(OSError):  # not on every kernel; the peak then includes loading, and a step's own is at least this
        _CLEAR.write_text("5")
    return _read_status("VmRSS")


def peak(device: str) -> int:
    """Return the most bytes held since ``reset_peak``."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _read_status("VmHWM")


def _read_status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
