"""The loop from workspace to adapter, with random tiny models."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.tiny_models import FAMILIES, TinyModel, reference_to
from tests.training.builders import RecordingObserver, make_workspace, sum_rows
from tests.training.models import reload_in_peft
from worker.training.errors import DatasetError, NonFiniteLossError, SpecError, TrainingCancelled
from worker.training.events import (
    CheckpointEvent,
    EvaluationEvent,
    MessageEvent,
    MetricsEvent,
    PhaseEvent,
    encode,
)
from worker.training.model.base_model import load_base_model
from worker.training.observer import NullObserver
from worker.training.spec import EvaluationSettings, LoraSettings, RuntimeSettings
from worker.training.trainer import train

NLFT_EPOCHS = {"n_epochs": 2, "batch_size": 4, "learning_rate": 1e-2}


@pytest.mark.parametrize("method", ["supervised", "nlft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_its_adapter_reloads(
    tmp_path: Path, tiny_model: TinyModel, family: str, method: str
) -> None:
    spec = make_workspace(tmp_path, tiny_model(family), sum_rows(6), method=method)
    train(tmp_path, spec, NullObserver())
    loaded = load_base_model(spec.base_model, spec.runtime)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        before = loaded.model(input_ids=ids).logits
        tuned = reload_in_peft(loaded.model, tmp_path / "outputs")
        assert not torch.equal(tuned(input_ids=ids).logits, before)


def test_events_of_a_whole_run(tmp_path: Path, tiny_model: TinyModel) -> None:
    spec = make_workspace(
        tmp_path,
        tiny_model(),
        sum_rows(6),
        sum_rows(3),
        method="nlft",
        hyperparameters=NLFT_EPOCHS,
        evaluation=EvaluationSettings(max_new_tokens=4),
    )
    observer = RecordingObserver()
    result = train(tmp_path, spec, observer)
    phases = [event.phase for event in observer.of(PhaseEvent)]
    assert [phase for phase, before in zip(phases, [None, *phases], strict=False) if phase != before] == [
        "preparing",
        "grading",
        "evaluating",
        "scoring",
        "explaining",
        "training",
        "evaluating",
        "training",
        "evaluating",
        "training",
        "evaluating",
        "saving",
    ]
    steps = observer.of(MetricsEvent)
    assert [(event.step, event.total_steps) for event in steps] == [(step, 4) for step in range(1, 5)]
    assert [event.valid_loss is not None for event in steps] == [False, True, False, True]
    assert [event.stage for event in observer.of(EvaluationEvent)] == ["before", "after"]
    assert [event.step for event in observer.of(CheckpointEvent)] == [2, 4]
    assert any("uidance" in event.message for event in observer.of(MessageEvent))
    assert result.steps == 4
    assert result.trained_tokens == sum(event.tokens for event in steps)
    assert {"train_loss", "valid_loss", "accuracy_before", "accuracy_after"} <= result.metrics.keys()
    assert all(encode(event) for event in observer.events)


def test_outputs_are_complete_and_described(tmp_path: Path, tiny_model: TinyModel) -> None:
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(6), sum_rows(2))
    train(tmp_path, spec, NullObserver())
    outputs = tmp_path / "outputs"
    names = {path.name for path in outputs.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "metrics.csv"} < names
    manifest = json.loads((outputs / "manifest.json").read_text())
    assert manifest["files"].keys() == names - {"manifest.json"}
    for name, facts in manifest["files"].items():
        assert hashlib.sha256((outputs / name).read_bytes()).hexdigest() == facts["sha256"]
    training = (tmp_path / "inputs/training.jsonl").read_bytes()
    assert manifest["datasets"]["training.jsonl"]["sha256"] == hashlib.sha256(training).hexdigest()
    assert manifest["spec"]["base_model"] == {"name": spec.base_model.name, "digest": spec.base_model.digest}
    assert str(tmp_path) not in (outputs / "manifest.json").read_text() + (outputs / "adapter_config.json").read_text()


def test_metrics_table_has_a_row_per_step(tmp_path: Path, tiny_model: TinyModel) -> None:
    train(tmp_path, make_workspace(tmp_path, tiny_model(), sum_rows(6), sum_rows(2)), NullObserver())
    with (tmp_path / "outputs/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    published = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert list(rows[0])[:5] == published
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["valid_loss"]) for row in rows] == [False, True, False, True]
    assert rows[0]["train_accuracy"] == rows[0]["train_mean_token_accuracy"]


def test_patience_ends_a_run_that_does_not_improve(tmp_path: Path, tiny_model: TinyModel) -> None:
    chosen = {
        "n_epochs": 10,
        "batch_size": 4,
        "learning_rate": 1e-9,
        "early_stopping_patience": 2,
        "max_grad_norm": 1e-9,
    }
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(4), sum_rows(2), hyperparameters=chosen)
    observer = RecordingObserver()
    result = train(tmp_path, spec, observer)
    assert result.steps < 10
    assert any(event.message.startswith("Stopped early") for event in observer.of(MessageEvent))
    assert observer.of(CheckpointEvent)[-1].step == result.steps


SLOWER = {
    "nothing": ("llama", {}, []),
    "dropout": (
        "llama",
        {"dropout": 0.1},
        ["14 of 14 adapted layers run PEFT's own code (dropout)", "With dropout on the adapter, scoring cannot go on"],
    ),
    "transposed layers": ("gpt2", {}, ["8 of 8 adapted layers run PEFT's own code (base layer of the kind Conv1D)"]),
}


@pytest.mark.parametrize(("family", "adapter", "told"), SLOWER.values(), ids=SLOWER.keys())
def test_a_run_says_once_what_keeps_it_from_the_fast_way(
    tmp_path: Path, tiny_model: TinyModel, family: str, adapter: dict[str, Any], told: list[str]
) -> None:
    chosen = {"n_epochs": 1, "batch_size": 2, "scoring": "online"}
    settings = LoraSettings(r=4, **adapter)
    spec = make_workspace(
        tmp_path, tiny_model(family), sum_rows(6), method="nlft", hyperparameters=chosen, adapter=settings
    )
    observer = RecordingObserver()
    train(tmp_path, spec, observer)
    slower = [event.message for event in observer.of(MessageEvent) if "expect slower" in event.message]
    assert len(slower) == len(told)
    assert all(any(one in message for message in slower) for one in told)


@pytest.mark.parametrize("after_step", [0, 1])
def test_cancel_ends_the_run_at_once_and_keeps_nothing(tmp_path: Path, tiny_model: TinyModel, after_step: int) -> None:
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(8), method="nlft", hyperparameters=NLFT_EPOCHS)
    observer = RecordingObserver(end="cancel", after_step=after_step)
    with pytest.raises(TrainingCancelled):
        train(tmp_path, spec, observer)
    assert len(observer.of(MetricsEvent)) == after_step
    assert not (tmp_path / "outputs").exists()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, tiny_model: TinyModel) -> None:
    chosen = {"loss_scale": 1e39}  # beyond float32
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(8), method="nlft", hyperparameters=chosen)
    with pytest.raises(NonFiniteLossError):
        train(tmp_path, spec, NullObserver())
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"method": "no_such_method"}, "method.type"),
        ({"hyperparameters": {"n_epochs": 0}}, "method.supervised.hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epoch": 1}}, "method.supervised.hyperparameters.n_epoch"),
        ({"adapter": LoraSettings(target_modules=["no_such_layer"])}, "adapter.target_modules"),
    ],
)
def test_a_spec_that_cannot_be_run_is_refused(
    tmp_path: Path, tiny_model: TinyModel, changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(SpecError) as caught:
        train(tmp_path, make_workspace(tmp_path, tiny_model(), sum_rows(2), **changes), NullObserver())
    assert caught.value.param == param


def test_rows_that_the_method_cannot_train_are_all_named(tmp_path: Path, tiny_model: TinyModel) -> None:
    rows = [{key: row[key] for key in ("messages", "response")} | {"correct": True} for row in sum_rows(3)]
    with pytest.raises(DatasetError) as caught:
        train(tmp_path, make_workspace(tmp_path, tiny_model(), rows, method="nlft"), NullObserver())
    assert [(problem.line, problem.code) for problem in caught.value.problems] == [
        (line, "missing_reference") for line in (1, 2, 3)
    ]


def test_validation_rows_without_a_response_are_only_asked(tmp_path: Path, tiny_model: TinyModel) -> None:
    asked = [{key: row[key] for key in ("messages", "reference")} for row in sum_rows(3)]
    settings = EvaluationSettings(max_new_tokens=2)
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(4), asked, method="nlft", evaluation=settings)
    observer = RecordingObserver()
    train(tmp_path, spec, observer)
    assert [event.total for event in observer.of(EvaluationEvent)] == [3, 3]
    assert all(event.valid_loss is None for event in observer.of(MetricsEvent))


def test_frozen_and_online_scoring_agree_on_the_first_step(tmp_path: Path, tiny_model: TinyModel) -> None:
    losses = []
    for scoring in ("frozen", "online"):
        chosen = {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "scoring": scoring}
        folder = tmp_path / scoring
        spec = make_workspace(folder, tiny_model(), sum_rows(8), method="nlft", hyperparameters=chosen)
        observer = RecordingObserver()
        train(folder, spec, observer)
        losses.append(observer.of(MetricsEvent)[0].train_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_bfloat16_base_trains(tmp_path: Path, tiny_model: TinyModel) -> None:
    runtime = RuntimeSettings(device="cpu", dtype="bfloat16")
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(8), runtime=runtime)
    observer = RecordingObserver()
    train(tmp_path, spec, observer)
    losses = [event.train_loss for event in observer.of(MetricsEvent)]
    assert losses[-1] < losses[0]
    assert reference_to(tiny_model()) == spec.base_model
