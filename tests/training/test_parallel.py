"""Two processes on gloo train what one process trains; what goes wrong on one of them ends, or spares, both alike."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import worker.ranks
from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver, make_workspace, sum_rows
from tests.training.ranked import Case, End
from worker.training.errors import TrainingStopped
from worker.training.events import (
    CheckpointEvent,
    EvaluationEvent,
    Event,
    MetricsEvent,
    ProgressEvent,
    StageEvent,
    decode,
)
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
    "fewer examples than processes": {"method": "supervised", "hyperparameters": {"batch_size": 1, "n_epochs": 1}},
}
DROPOUT = {"method": "supervised", "adapter": LoraSettings(r=4, dropout=0.2)}
STOPPED = "checkpoints/step-000004"

Prepare = Callable[[Path, dict[str, Any]], TrainingSpec]
Alone = Callable[[str], tuple[Path, RecordingObserver]]


@pytest.fixture(scope="module")
def prepare(tiny_model: TinyModel) -> Prepare:
    """Return ``prepare(folder, run)``, which writes a workspace of ten rows and returns its spec."""

    def write(folder: Path, run: dict[str, Any]) -> TrainingSpec:
        chosen = {"n_epochs": 3, "batch_size": 4, "learning_rate": 1e-2, **run.get("hyperparameters", {})}
        fields = {**run, "hyperparameters": chosen}
        spec = make_workspace(folder, tiny_model(), sum_rows(10), sum_rows(3), **fields)
        (folder / "spec.json").write_text(spec.model_dump_json())
        return spec

    return write


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, prepare: Prepare) -> Path:
    """Return the folder in which two processes have run all cases, which costs them their start only once."""
    folder = tmp_path_factory.mktemp("pair")
    cases = {Case(name): run for name, run in RUNS.items()} | {
        Case("straight"): DROPOUT,
        Case("stopped", stop_after=4): DROPOUT,
        Case("resumed", resume_from=f"stopped/{STOPPED}"): DROPOUT,
        Case("stopped for one", stop_after=4): RUNS["nlft, online"],
        **{Case(mischief, mischief=mischief): RUNS["supervised"] for mischief in ("memory", "drift", "raise")},
        Case("bad rows"): RUNS["supervised"],
    }
    for case, run in cases.items():
        prepare(folder / case.name, run)
    (folder / "bad rows/inputs/training.jsonl").write_text("{}\n")
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    command = [sys.executable, "-m", "tests.training.ranked", str(folder)]
    launch = [sys.executable, "-I", "-S", str(worker.ranks.__file__), "2", *command]
    done = subprocess.run(launch, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, prepare: Prepare) -> Alone:
    """Return ``alone(name) -> (folder, events)`` of a run in this process; each is trained once."""
    done: dict[str, tuple[Path, RecordingObserver]] = {}

    def run(name: str) -> tuple[Path, RecordingObserver]:
        if name not in done:
            folder, observer = tmp_path_factory.mktemp("alone"), RecordingObserver()
            train(folder, prepare(folder, RUNS[name]), observer)
            done[name] = folder, observer
        return done[name]

    return run


def events_of(folder: Path) -> list[Event]:
    return [decode(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]


def metrics_of(folder: Path) -> list[MetricsEvent]:
    return [event for event in events_of(folder) if isinstance(event, MetricsEvent)]


def ends_of(folder: Path) -> list[End]:
    return [End(**json.loads((folder / f"end-{rank}.json").read_text())) for rank in (0, 1)]


def assert_same_adapter(one: Path, two: Path) -> None:
    expected, found = (load_file(folder / "outputs/adapter_model.safetensors") for folder in (one, two))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=ADAPTER_TOLERANCE * float(tensor.abs().max()))


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_does(alone: Alone, pair: Path, name: str) -> None:
    folder, observer = alone(name)
    assert_same_adapter(folder, pair / name)
    for found, expected in zip(metrics_of(pair / name), observer.of(MetricsEvent), strict=True):
        assert (found.step, found.tokens, found.epoch) == (expected.step, expected.tokens, expected.epoch)
        assert found.train_loss == pytest.approx(expected.train_loss, rel=LOSS_TOLERANCE)
        assert (found.valid_loss is None) == (expected.valid_loss is None)
        assert (found.valid_loss or 0) == pytest.approx(expected.valid_loss or 0, rel=LOSS_TOLERANCE)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
        assert found.train_mean_token_accuracy == expected.train_mean_token_accuracy
        assert (found.extra or {}) == pytest.approx(expected.extra or {}, rel=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_the_first_process_tells_what_one_process_tells(alone: Alone, pair: Path, name: str) -> None:
    folder, observer = alone(name)
    # How many parts scores are kept in depends on who made them.
    found, expected = (
        [type(event).__name__ for event in events if not isinstance(event, ProgressEvent | StageEvent)]
        for events in (events_of(pair / name), observer.events)
    )
    assert found == expected
    answers = [event for event in events_of(pair / name) if isinstance(event, EvaluationEvent)]
    assert [(one.correct, one.total) for one in answers] == [
        (one.correct, one.total) for one in observer.of(EvaluationEvent)
    ]
    outputs = {path.name for path in (pair / name / "outputs").iterdir()}
    assert outputs == {path.name for path in (folder / "outputs").iterdir()}
    for table in ("row_losses.csv", "saliency.jsonl"):
        rows, lines = ((one / "outputs" / table).read_text().splitlines() for one in (pair / name, folder))
        assert len(rows) == len(lines)


def test_both_processes_have_their_share_of_every_step(pair: Path) -> None:
    first, second = (end.examples for end in ends_of(pair / "supervised"))
    # Three epochs of steps on 4, 4 and 2 rows, each epoch with a validation on 3.
    assert [sum(shares) for shares in zip(first, second, strict=True)] == [4, 4, 2, 3] * 3
    assert min(*first, *second) >= 1
    first, second = (end.examples for end in ends_of(pair / "fewer examples than processes"))
    assert {0, 1} == {*first[:-1], *second[:-1]}


def test_two_processes_resume_bit_for_bit_with_dropout(pair: Path) -> None:
    assert ends_of(pair / "stopped")[0].error == "TrainingStopped"
    weights = "outputs/adapter_model.safetensors"
    assert (pair / "resumed" / weights).read_bytes() == (pair / "straight" / weights).read_bytes()
    losses = [step.train_loss for step in metrics_of(pair / "straight")]
    assert [step.train_loss for step in metrics_of(pair / "resumed")] == losses[4:]


def test_one_process_continues_what_two_began(tmp_path: Path, prepare: Prepare, alone: Alone, pair: Path) -> None:
    spec = prepare(tmp_path, RUNS["nlft, online"])
    shutil.copytree(pair / "stopped for one" / STOPPED, tmp_path / "resume")
    train(tmp_path, spec.model_copy(update={"n_gpus": 1}), RecordingObserver())
    assert_same_adapter(alone("nlft, online")[0], tmp_path)


def test_checkpoints_of_one_and_of_two_processes_are_of_one_kind(tmp_path: Path, prepare: Prepare, pair: Path) -> None:
    observer = RecordingObserver(after_step=4)
    with pytest.raises(TrainingStopped):
        train(tmp_path, prepare(tmp_path, RUNS["nlft, online"]), observer)
    last = observer.of(CheckpointEvent)[-1]
    found, expected = (
        json.loads((folder / "manifest.json").read_text())
        for folder in (pair / "stopped for one" / STOPPED, tmp_path / last.path)
    )
    assert found["fingerprint"] == expected["fingerprint"]
    assert found["files"].keys() == expected["files"].keys()


def test_memory_that_one_process_lacks_costs_only_that_one(alone: Alone, pair: Path) -> None:
    plenty, little = ends_of(pair / "memory")
    assert (plenty.error, plenty.refused) == (None, 0)
    assert little.error is None
    assert little.refused > 0
    assert_same_adapter(alone("supervised")[0], pair / "memory")


def test_processes_that_drift_apart_are_found_out_at_the_next_checkpoint(pair: Path) -> None:
    ends = ends_of(pair / "drift")
    assert [end.error for end in ends] == ["TrainingError", "TrainingError"]
    assert "no longer agree on the adapter after step 3" in ends[0].message
    assert not (pair / "drift/outputs").exists()


def test_an_error_on_one_process_is_raised_on_both(pair: Path) -> None:
    ends = ends_of(pair / "raise")
    assert ends[0] == ends[1]
    assert (ends[0].error, ends[0].message[:15]) == ("TrainingError", "training failed")
    assert [end.error for end in ends_of(pair / "bad rows")] == ["DatasetError", "DatasetError"]
