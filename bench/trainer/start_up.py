"""How long a job waits for its first optimizer step, once its process is started.

The product's own command runs a workspace; the word that training begins is stamped as it arrives. What an interpreter
that only imports torch needs is measured beside it and subtracted: nothing here can change that. Wall time is what a
user waits for; CPU time tells the same on a busy machine, where wall time tells how busy it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.machine import cpu_seconds
from bench.trainer.points import ADAPTER, ROOT, default_batch, default_reference
from worker.training.events import EVENTS_FD
from worker.training.spec import SPEC_FILE, TRAINING_FILE, EvaluationSettings, RuntimeSettings, TrainingSpec

_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of ``wall`` and of ``cpu`` time."""

    wall: float
    cpu: float

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


def measure(method: str = "supervised") -> Spent:
    """Start the product's trainer once on the default model and return what it needs beyond importing torch."""
    workspace = Path(tempfile.mkdtemp(prefix="start-up-"))
    try:
        _fill(workspace, method)
        return _until_first_step(workspace) - _import_of_torch()
    finally:
        shutil.rmtree(workspace)


def _import_of_torch() -> Spent:
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", "import torch"], env=os.environ | _ENVIRONMENT)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return Spent(time.perf_counter() - started, usage.ru_utime + usage.ru_stime)


def _fill(workspace: Path, method: str) -> None:
    (workspace / TRAINING_FILE).parent.mkdir(parents=True)
    (workspace / TRAINING_FILE).write_text("\n".join(default_batch()) + "\n", encoding="utf-8")
    spec = TrainingSpec(
        job_id="start-up",
        base_model=default_reference(),
        method=method,
        hyperparameters={"n_epochs": 1, "batch_size": 8},
        adapter=ADAPTER,
        evaluation=EvaluationSettings(generate=False),
        runtime=RuntimeSettings(device="cpu", threads=1),
    )
    (workspace / SPEC_FILE).write_text(spec.model_dump_json(), encoding="utf-8")


def _until_first_step(workspace: Path) -> Spent:
    """Return what passes from starting the process to the beginning of its first step."""
    reading, writing = os.pipe()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.training", "run", str(workspace)],
        cwd=ROOT,
        env=os.environ | _ENVIRONMENT | {EVENTS_FD: str(writing)},
        pass_fds=(writing,),
    )
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as events:
            for line in events:
                if _begins_training(line):
                    return Spent(time.perf_counter() - started, cpu_seconds(process.pid))
    finally:
        process.kill()
        process.wait()
    raise RuntimeError("the trainer ended before its first step; its messages are above")


def _begins_training(line: bytes) -> bool:
    event = msgspec.json.decode(line)
    return bool(event["type"] == "phase" and event["phase"] == "training")
