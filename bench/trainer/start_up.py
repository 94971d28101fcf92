"""How long a job waits for its first optimizer step, once its worker has its inputs.

The worker's own code starts the trainers, or gives one that waits the job; the word that training begins is stamped as
it arrives. A trainer that has waited has nothing to be excused for. Of a trainer of the job's own is subtracted what an
interpreter needs that only imports torch: nothing here can change that. Wall time is what a user waits for; CPU time
tells the same on a busy machine, where wall time tells how busy it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from app.core.settings import Settings
from bench.machine import cpu_seconds
from bench.trainer.points import ADAPTER, default_batch, default_reference
from worker.child import SCRATCH_DIR, Child, build_environment
from worker.context import TRAINER_COMMAND
from worker.standby import Standby
from worker.training.spec import SPEC_FILE, TRAINING_FILE, EvaluationSettings, RuntimeSettings, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

_THREADS = 1
_READY_SECONDS = 120.0
_TICK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of ``wall`` and of ``cpu`` time."""

    wall: float
    cpu: float

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


def measure_standby(method: str = "supervised") -> Spent:
    """Give a trainer that waits one job on the default model and return what it needs until its first step."""
    with _job(method) as workspace:
        standby = Standby(Settings(workspace_dir=workspace.parent, worker_threads=_THREADS), TRAINER_COMMAND)
        try:
            standby.prepare()
            _await_ready(standby)
            started = time.perf_counter()
            child = standby.take(workspace, _environment(workspace), ())
            if child is None:
                raise RuntimeError("the waiting trainer took no job; its messages are above")
            return _until_first_step(child, Spent(started, cpu_seconds(child.pid)))
        finally:
            standby.close()


def measure_own(method: str = "supervised") -> Spent:
    """Start a trainer for one job on the default model and return what it needs beyond importing torch."""
    with _job(method) as workspace:
        started = time.perf_counter()
        child = Child.start(TRAINER_COMMAND, workspace=workspace, environment=_environment(workspace))
        spent = _until_first_step(child, Spent(started, 0.0))
        return spent - _import_of_torch(_environment(workspace))


def _environment(workspace: Path) -> dict[str, str]:
    return build_environment(os.environ, threads=_THREADS, scratch=workspace / SCRATCH_DIR)


def _import_of_torch(environment: dict[str, str]) -> Spent:
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", "import torch"], env=environment)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return Spent(time.perf_counter() - started, usage.ru_utime + usage.ru_stime)


@contextmanager
def _job(method: str) -> Iterator[Path]:
    """Yield the workspace of a job."""
    spec = TrainingSpec(
        job_id="start-up",
        base_model=default_reference(),
        method=method,
        hyperparameters={"n_epochs": 1, "batch_size": 8},
        adapter=ADAPTER,
        evaluation=EvaluationSettings(generate=False),
        runtime=RuntimeSettings(device="cpu", threads=_THREADS),
    )
    with tempfile.TemporaryDirectory(prefix="start-up-") as root:
        workspace = Path(root, "job")
        (workspace / SCRATCH_DIR).mkdir(parents=True)
        (workspace / TRAINING_FILE).parent.mkdir()
        (workspace / TRAINING_FILE).write_text("\n".join(default_batch()) + "\n", encoding="utf-8")
        (workspace / SPEC_FILE).write_text(spec.model_dump_json(), encoding="utf-8")
        yield workspace


def _await_ready(standby: Standby) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not standby.is_ready():
        if time.monotonic() > deadline:
            raise RuntimeError("no trainer waits; see the messages above")
        time.sleep(_TICK_SECONDS)


def _until_first_step(child: Child, start: Spent) -> Spent:
    """Return what passes from ``start``, on the clock and of the child's CPU time, to its first step."""
    try:
        while not child.has_exited():
            if any(map(_begins_training, child.read(_TICK_SECONDS))):
                return Spent(time.perf_counter(), cpu_seconds(child.pid)) - start
    finally:
        child.finish()
    raise RuntimeError(f"the trainer ended before its first step: {child.log_tail}")


def _begins_training(line: bytes) -> bool:
    event = msgspec.json.decode(line)
    return bool(event["type"] == "phase" and event["phase"] == "training")
