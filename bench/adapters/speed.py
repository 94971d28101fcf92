"""CPU time of several runs one after the other, over that of the same runs as one group, in turn in one process."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from bench.adapters.jobs import MICRO_BATCH_TOKENS, build_base, build_job, hold
from worker.training.multi_lora.group import JobGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.training.events import CompletionAnswer, CompletionRequest
    from worker.training.multi_lora.member import Member


@dataclass(frozen=True, slots=True)
class Speed:
    """CPU seconds of all steps of all runs in every round."""

    apart: Sequence[float]
    together: Sequence[float]

    @property
    def ratio(self) -> float:
        """Median over rounds of the time apart / the time together."""
        return median(one / other for one, other in zip(self.apart, self.together, strict=True))


class Gate:
    """Holds all runs of a group, which compute nothing meanwhile, until the measuring thread opens it."""

    def __init__(self, runs: int) -> None:
        self._barrier = threading.Barrier(runs + 1)

    def complete(
        self,
        requests: Sequence[CompletionRequest],  # noqa: ARG002 - a port's shape
        on_done: Callable[[int, int], None],  # noqa: ARG002
    ) -> list[CompletionAnswer]:
        """Wait; answers nothing."""
        self.open()
        return []

    def open(self) -> None:
        """Wait until everybody is here."""
        self._barrier.wait()


def measure(runs: int, tokens: int, *, steps: int, rounds: int) -> Speed:
    """Return the times of ``steps`` steps of ``runs`` runs with ``tokens`` tokens a step; another round warms up."""
    base = build_base()
    solo = [build_job(base, tokens, seed) for seed in range(runs)]
    group, gate = JobGroup(pack_tokens=MICRO_BATCH_TOKENS, base=hold(base)), Gate(runs)

    def work(member: Member, seed: int) -> None:
        job, door = build_job(base, tokens, seed, member), member.ask(gate)
        for number in range(rounds + 1):
            door.complete([], lambda *_: None)
            job.steps(1 + number * steps, steps)
            door.complete([], lambda *_: None)

    for seed in range(runs):
        group.add(partial(work, seed=seed))
    conductor = threading.Thread(target=group.run)
    conductor.start()
    apart, together = [], []
    for number in range(rounds + 1):
        started = time.process_time()
        for job in solo:
            job.steps(1 + number * steps, steps)
        apart.append(time.process_time() - started)
        started = time.process_time()
        gate.open()
        gate.open()
        together.append(time.process_time() - started)
    conductor.join()
    return Speed(apart[1:], together[1:])
