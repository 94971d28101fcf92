"""Cases that two processes on gloo train together, and what they leave behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import worker.ranks
from tests.training.builders import RecordingObserver, make_workspace, sum_rows
from tests.training.ranked import Case, End
from worker.training.events import Event, MetricsEvent, decode
from worker.training.spec import EvaluationSettings, LoraSettings, TrainingSpec
from worker.training.trainer import train

# Examples are packed beside other neighbours and gradients added up in another order: rounding of float32, no more.
LOSS_TOLERANCE = 1e-5
ADAPTER_TOLERANCE = 1e-5

ONLINE = {"scoring": "online", "hindsight_weight": 1.0, "cluster": "similarity"}
RUNS: dict[str, dict[str, Any]] = {
    "supervised": {"method": "supervised"},
    "nlft, frozen": {"method": "nlft", "evaluation": EvaluationSettings(max_new_tokens=4)},
    "nlft, online": {"method": "nlft", "hyperparameters": ONLINE},
    "nlft, epoch": {"method": "nlft", "hyperparameters": {"scoring": "epoch"}},
    "hidden states kept": {
        "method": "nlft",
        "hyperparameters": ONLINE,
        "adapter": LoraSettings(r=4, layers_to_transform=[-1], cache_frozen_hidden_states=True),
    },
    "fewer examples than processes": {"method": "supervised", "hyperparameters": {"batch_size": 1, "n_epochs": 1}},
}
STOPPED = "checkpoints/step-000004"


def write_case(folder: Path, model: Path, run: dict[str, Any]) -> TrainingSpec:
    """Write a workspace of ten rows, where ``run`` has none, and return its spec."""
    chosen = {"n_epochs": 3, "batch_size": 4, "learning_rate": 1e-2, **run.get("hyperparameters", {})}
    spec = make_workspace(folder, model, sum_rows(10), sum_rows(3), **{**run, "hyperparameters": chosen})
    (folder / "spec.json").write_text(spec.model_dump_json())
    return spec


def run_pair(folder: Path, cases: Iterable[Case]) -> Path:
    """Let two processes run ``cases``, which costs them their start only once, and return ``folder``."""
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    command = [sys.executable, "-m", "tests.training.ranked", str(folder)]
    launch = [sys.executable, "-I", "-S", str(worker.ranks.__file__), "2", *command]
    done = subprocess.run(launch, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return folder


class Alone:
    """Runs of this process: ``alone(name) -> (folder, events)``; each is trained once, below ``folder``."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder = folder
        self._model = model
        self._done: dict[str, RecordingObserver] = {}

    def __call__(self, name: str) -> tuple[Path, RecordingObserver]:
        folder = self._folder / name
        if name not in self._done:
            self._done[name] = RecordingObserver()
            train(folder, write_case(folder, self._model, RUNS[name]), self._done[name])
        return folder, self._done[name]


def events_of(folder: Path) -> list[Event]:
    return [decode(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]


def metrics_of(folder: Path) -> list[MetricsEvent]:
    return [event for event in events_of(folder) if isinstance(event, MetricsEvent)]


def ends_of(folder: Path) -> list[End]:
    return [End(**json.loads((folder / f"end-{rank}.json").read_text())) for rank in (0, 1)]


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "outputs/adapter_model.safetensors").read_bytes()


def assert_same_adapter(one: Path, two: Path) -> None:
    expected, found = (load_file(folder / "outputs/adapter_model.safetensors") for folder in (one, two))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=ADAPTER_TOLERANCE * float(tensor.abs().max()))
