"""How long a job waits for its first optimizer step, once its process is started.

The product's own command runs a workspace; its events are stamped here as they arrive. Wall time, as a user waits. What
an interpreter that only imports torch needs is measured beside it and subtracted: nothing here can change that.
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

from bench.trainer.points import ADAPTER, ROOT, default_batch, default_reference
from worker.training.events import EVENTS_FD, MetricsEvent
from worker.training.spec import SPEC_FILE, TRAINING_FILE, EvaluationSettings, RuntimeSettings, TrainingSpec


class _Kind(msgspec.Struct):
    type: str


_kind = msgspec.json.Decoder(_Kind).decode
_metrics = msgspec.json.Decoder(MetricsEvent).decode
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class StartUp:
    """Seconds on the wall: until torch alone is imported, and until the first optimizer step begins."""

    torch: float
    first_step: float

    @property
    def own(self) -> float:
        """What the product adds."""
        return self.first_step - self.torch


def measure(method: str = "supervised") -> StartUp:
    """Start the product's trainer once on a workspace of the default model and return what it took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], env=os.environ | _ENVIRONMENT, check=True)
    torch = time.perf_counter() - started
    workspace = Path(tempfile.mkdtemp(prefix="start-up-"))
    try:
        _fill(workspace, method)
        return StartUp(torch, _until_first_step(workspace))
    finally:
        shutil.rmtree(workspace)


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


def _until_first_step(workspace: Path) -> float:
    """Return the seconds from starting the process to the beginning of its first step."""
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
                if _kind(line).type == "metrics":
                    arrived = time.perf_counter()
                    return arrived - started - _metrics(line).seconds
    finally:
        process.kill()
        process.wait()
    raise RuntimeError("the trainer ended before its first step; its messages are above")
