"""Peak memory of a group above the loaded model: ``python -m bench.adapters.memory RUNS TOKENS``, once a process."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.adapters.jobs import MICRO_BATCH_TOKENS, Job, build_base, build_job, hold
from worker.training.multi_lora.group import JobGroup

if TYPE_CHECKING:
    from worker.training.multi_lora.member import Member

STEPS = 3
_OF_ADAMW = 4  # the weights, their gradient and two moments, all float32
_BYTES = 4


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: ``peak`` of all runs above the loaded model, ``state`` of one run's adapter, gradient and optimizer."""

    peak: int
    state: int


def measure(runs: int, tokens: int) -> Memory:
    """Return the memory of a group of ``runs`` with ``tokens`` tokens a step, measured in a child."""
    command = [sys.executable, "-m", "bench.adapters.memory", str(runs), str(tokens)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return Memory(**found)


def _resident(name: Literal["VmRSS", "VmHWM"]) -> int:
    """Return the resident bytes of this process, now (``VmRSS``) or at their peak since ``_forget_peak``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _forget_peak() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or the first run would find free what the warm-up has left
    Path("/proc/self/clear_refs").write_text("5")  # what came before, building the model, is not meant


def _measure_here(runs: int, tokens: int) -> Memory:
    base = build_base()
    # A first pass loads what the libraries load lazily, none of which a run is to blame for.
    build_job(base, 8, seed=0).steps(1, 1)
    _forget_peak()
    before = _resident("VmRSS")
    group, jobs = JobGroup(pack_tokens=MICRO_BATCH_TOKENS, base=hold(base)), list[Job]()

    def work(member: Member, seed: int) -> None:
        jobs.append(build_job(base, tokens, seed, member))
        jobs[-1].steps(1, STEPS)

    for seed in range(runs):
        group.add(partial(work, seed=seed))
    group.run()
    return Memory(_resident("VmHWM") - before, jobs[0].trained * _OF_ADAMW * _BYTES)


if __name__ == "__main__":
    memory = _measure_here(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write(json.dumps({"peak": memory.peak, "state": memory.state}) + "\n")
