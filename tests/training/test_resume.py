"""A run that was stopped and continued ends with the very bytes of one that was not."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver, make_workspace, sum_rows
from worker.training.engine.forward import DocumentScores, Forward
from worker.training.errors import CheckpointError, TrainingStopped
from worker.training.events import CheckpointEvent, EvaluationEvent, MessageEvent, MetricsEvent
from worker.training.observer import NullObserver
from worker.training.spec import EvaluationSettings, LoraSettings, RuntimeSettings, TrainingSpec
from worker.training.trainer import train
from worker.training.types import TokenSequence

EVERYTHING = {"scoring": "online", "hindsight_weight": 1.0, "cluster": "similarity", "early_stopping_patience": 5}
KEPT = LoraSettings(r=4, layers_to_transform=[-1], cache_frozen_hidden_states=True)
RUNS: dict[str, dict[str, Any]] = {
    "supervised with dropout": {"method": "supervised", "adapter": LoraSettings(r=4, dropout=0.2)},
    "nlft, frozen": {"method": "nlft"},
    "nlft, once an epoch": {"method": "nlft", "scoring": "epoch"},
    "nlft, online": {"method": "nlft", "scoring": "online"},
    "nlft, online, all terms, dropout": {"method": "nlft", "adapter": LoraSettings(r=4, dropout=0.1), **EVERYTHING},
    "hidden states kept": {"method": "nlft", "scoring": "online", "adapter": KEPT},
    "hidden states kept as far as they fit": {
        "method": "nlft",
        "scoring": "epoch",
        "adapter": KEPT,
        "runtime": RuntimeSettings(device="cpu", dtype="float32", hidden_state_cache_bytes=20_000),
    },
}
STEPS = 9


def begin(folder: Path, model: Path, run: dict[str, Any]) -> TrainingSpec:
    fields = {name: value for name, value in run.items() if name not in EVERYTHING}
    own = {name: value for name, value in run.items() if name in EVERYTHING}
    chosen = {"n_epochs": 3, "batch_size": 4, "learning_rate": 1e-2, **own}
    return make_workspace(folder, model, sum_rows(10), sum_rows(3), hyperparameters=chosen, **fields)


def stop_and_continue(
    folder: Path, model: Path, run: dict[str, Any], after_step: int, memory: AbstractContextManager[None] | None = None
) -> RecordingObserver:
    first, second = folder / "first", folder / "second"
    spec = begin(first, model, run)
    observer = RecordingObserver(after_step=after_step)
    with memory or nullcontext(), pytest.raises(TrainingStopped):
        train(first, spec, observer)
    last = observer.of(CheckpointEvent)[-1]
    assert last.step == after_step
    spec = begin(second, model, run)
    shutil.copytree(first / last.path, second / "resume")
    resumed = RecordingObserver()
    train(second, spec, resumed)
    return resumed


@pytest.mark.parametrize("after_step", [1, 3, 5, 8])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, tiny_model: TinyModel, run: dict[str, Any], after_step: int
) -> None:
    straight = tmp_path / "straight"
    uninterrupted = RecordingObserver()
    train(straight, begin(straight, tiny_model(), run), uninterrupted)
    resumed = stop_and_continue(tmp_path, tiny_model(), run, after_step)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "second/outputs" / name).read_bytes() == (straight / "outputs" / name).read_bytes()
    expected = [event.train_loss for event in uninterrupted.of(MetricsEvent)]
    assert [event.train_loss for event in resumed.of(MetricsEvent)] == expected[after_step:]
    lines = (tmp_path / "second/outputs/metrics.csv").read_text().splitlines()
    assert len(lines) == STEPS + 1


def test_a_finished_run_resumed_from_its_last_checkpoint_only_exports(tmp_path: Path, tiny_model: TinyModel) -> None:
    run = RUNS["nlft, frozen"]
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, begin(first, tiny_model(), run), NullObserver())
    spec = begin(second, tiny_model(), run)
    shutil.copytree(first / f"checkpoints/step-{STEPS:06d}", second / "resume")
    observer = RecordingObserver()
    assert train(second, spec, observer).steps == STEPS
    assert observer.of(MetricsEvent) == []
    weights = "outputs/adapter_model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()


def test_the_measurement_before_training_is_not_repeated(tmp_path: Path, tiny_model: TinyModel) -> None:
    run = {**RUNS["nlft, frozen"], "evaluation": EvaluationSettings(max_new_tokens=2)}
    resumed = stop_and_continue(tmp_path, tiny_model(), run, after_step=2)
    assert [event.stage for event in resumed.of(EvaluationEvent)] == ["after"]


def test_a_stop_before_the_first_step_leaves_no_checkpoint(tmp_path: Path, tiny_model: TinyModel) -> None:
    spec = begin(tmp_path, tiny_model(), RUNS["supervised with dropout"])
    with pytest.raises(TrainingStopped):
        train(tmp_path, spec, RecordingObserver(after_step=0))
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoints_come_as_often_as_asked_and_at_the_end(tmp_path: Path, tiny_model: TinyModel) -> None:
    runtime = RuntimeSettings(device="cpu", dtype="float32", checkpoint_steps=4)
    spec = begin(tmp_path, tiny_model(), {**RUNS["supervised with dropout"], "runtime": runtime})
    observer = RecordingObserver()
    train(tmp_path, spec, observer)
    assert [event.step for event in observer.of(CheckpointEvent)] == [4, 8, 9]


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, tiny_model: TinyModel) -> None:
    spec = begin(tmp_path, tiny_model(), RUNS["nlft, frozen"])
    train(tmp_path, spec, NullObserver())
    (tmp_path / "checkpoints/step-000003").rename(tmp_path / "resume")
    other = make_workspace(
        tmp_path, tiny_model(), sum_rows(9), sum_rows(3), method="nlft", hyperparameters=spec.hyperparameters
    )
    with pytest.raises(CheckpointError):
        train(tmp_path, other, NullObserver())


@contextmanager
def short_memory(tokens: int) -> Iterator[None]:
    """Let every forward pass with gradient of more than ``tokens`` run out of memory."""
    score = Forward.score

    def refuse(forward: Forward, documents: Sequence[TokenSequence], **caches: Any) -> DocumentScores:
        if not torch.is_inference_mode_enabled() and sum(len(document.input_ids) for document in documents) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(forward, documents, **caches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forward, "score", refuse)
        yield


@pytest.mark.parametrize("name", ["supervised with dropout", "nlft, online"])
def test_a_resumed_run_knows_that_memory_ran_short(tmp_path: Path, tiny_model: TinyModel, name: str) -> None:
    run, straight = RUNS[name], tmp_path / "straight"
    spec = begin(straight, tiny_model(), run)
    observer = RecordingObserver()
    with short_memory(60):
        train(straight, spec, observer)
    assert any("Memory ran short" in event.message for event in observer.of(MessageEvent))
    stop_and_continue(tmp_path, tiny_model(), run, 3, memory=short_memory(60))
    weights = "outputs/adapter_model.safetensors"
    assert (tmp_path / "second" / weights).read_bytes() == (straight / weights).read_bytes()
