"""Two processes that hold half of every decoder layer each train what two with the whole base model train."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver
from tests.training.building.conftest import build_speaker
from tests.training.building.runs import raw_rows, workspace
from tests.training.pairs import (
    LOSS_TOLERANCE,
    RUNS,
    STOPPED,
    Alone,
    adapter_bytes,
    assert_same_adapter,
    ends_of,
    events_of,
    metrics_of,
    run_pair,
    write_case,
)
from tests.training.ranked import Case
from worker.training.events import MessageEvent, MetricsEvent
from worker.training.spec import LoraSettings, RuntimeSettings
from worker.training.trainer import train

# Twenty runs by two processes: a minute on a quiet machine, many on a busy one.
pytestmark = pytest.mark.timeout(900)

WHOLE = RuntimeSettings(device="cpu", dtype="float32")
SHARDED = WHOLE.model_copy(update={"shard_base": True})
ONLINE = RUNS["nlft, online"]
# One that transposes its weights and ties its head, and one that mixes windows with caps.
FAMILIES = ("gpt2", "gemma2")
WHOLE_TWINS = ("nlft, online", "upper layer alone", *FAMILIES)
SHORT_OF_MEMORY = ("memory inside", "memory on the way back")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel) -> Path:
    """Return the folder in which two processes have run all cases, with the base model whole and sharded."""
    folder = tmp_path_factory.mktemp("sharded")
    runs: dict[Case, dict[str, Any]] = {Case(name): run for name, run in RUNS.items()} | {
        Case("checkpointed"): ONLINE | {"runtime": SHARDED.model_copy(update={"checkpointed_layers": 1})},
        Case("upper layer alone"): ONLINE | {"adapter": LoraSettings(target_modules=["1.mlp.up_proj"])},
        Case("stopped", stop_after=4): ONLINE,
        Case("resumed", resume_from=f"stopped, sharded/{STOPPED}"): ONLINE,
        **{Case(name, mischief=name): RUNS["supervised"] for name in (*SHORT_OF_MEMORY, "raise inside")},
        **{Case(family): {**ONLINE, "hyperparameters": {"n_epochs": 1}} for family in FAMILIES},
    }
    cases = []
    for name in WHOLE_TWINS:
        write_case(folder / name, tiny_model(name if name in FAMILIES else "llama"), runs[Case(name)])
        cases.append(Case(name))
    for case, run in runs.items():
        sharded = Case(f"{case.name}, sharded", case.stop_after, case.resume_from, case.mischief)
        model = tiny_model(case.name if case.name in FAMILIES else "llama")
        write_case(folder / sharded.name, model, {"runtime": SHARDED} | run)
        cases.append(sharded)
    counter = build_speaker(folder / "counter", ["1", "2", "3", "<|im_end|>"])
    spec = workspace(folder / "built, sharded", counter, raw_rows(), runtime=SHARDED)
    (folder / "built, sharded/spec.json").write_text(spec.model_dump_json())
    return run_pair(folder, [*cases, Case("built, sharded")])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel) -> Alone:
    return Alone(tmp_path_factory.mktemp("alone"), tiny_model())


@pytest.mark.parametrize("name", RUNS)
def test_sharded_processes_train_what_one_process_does(alone: Alone, pair: Path, name: str) -> None:
    folder, observer = alone(name)
    assert_same_adapter(folder, pair / f"{name}, sharded")
    found, expected = metrics_of(pair / f"{name}, sharded"), observer.of(MetricsEvent)
    assert [step.train_loss for step in found] == pytest.approx(
        [step.train_loss for step in expected], rel=LOSS_TOLERANCE
    )
    assert [step.valid_loss or 0 for step in found] == pytest.approx(
        [step.valid_loss or 0 for step in expected], rel=LOSS_TOLERANCE
    )


@pytest.mark.parametrize("name", WHOLE_TWINS)
def test_sharding_changes_no_bit(pair: Path, name: str) -> None:
    assert adapter_bytes(pair / f"{name}, sharded") == adapter_bytes(pair / name)
    found, expected = (
        [(step.train_loss, step.valid_loss, step.grad_norm) for step in metrics_of(pair / one)]
        for one in (f"{name}, sharded", name)
    )
    assert found == expected


def test_each_process_holds_half_of_the_layers(pair: Path, tiny_model: TinyModel) -> None:
    weights = load_file(tiny_model() / "model.safetensors")
    layers = sum(weight.nbytes for name, weight in weights.items() if ".layers." in name)
    whole = sum(weight.nbytes for weight in weights.values())
    assert layers > whole / 2
    assert [end.held_bytes for end in ends_of(pair / "nlft, online")] == [whole, whole]
    assert [end.held_bytes for end in ends_of(pair / "nlft, online, sharded")] == [whole - layers // 2] * 2


def test_layers_can_be_checkpointed_as_well(pair: Path) -> None:
    assert_same_adapter(pair / "nlft, online", pair / "checkpointed, sharded")


def test_hidden_states_below_the_adapter_are_not_kept(pair: Path) -> None:
    events = events_of(pair / "hidden states kept, sharded")
    told = [event.message for event in events if isinstance(event, MessageEvent)]
    assert any("its layers are spread over several processes" in message for message in told)


def test_a_sharded_run_resumes_to_the_same_bits(pair: Path) -> None:
    assert ends_of(pair / "stopped, sharded")[0].error == "TrainingStopped"
    assert adapter_bytes(pair / "resumed, sharded") == adapter_bytes(pair / "nlft, online, sharded")


def test_one_process_continues_what_sharded_ones_began(
    tmp_path: Path, tiny_model: TinyModel, alone: Alone, pair: Path
) -> None:
    spec = write_case(tmp_path, tiny_model(), ONLINE)
    shutil.copytree(pair / "resumed, sharded/resume", tmp_path / "resume")
    train(tmp_path, spec, RecordingObserver())
    assert_same_adapter(alone("nlft, online")[0], tmp_path)


@pytest.mark.parametrize("name", SHORT_OF_MEMORY)
def test_memory_that_one_process_lacks_in_the_midst_of_a_pass_costs_only_that_one(
    alone: Alone, pair: Path, name: str
) -> None:
    plenty, little = ends_of(pair / f"{name}, sharded")
    assert (plenty.error, plenty.refused) == (None, 0)
    assert little.error is None
    assert little.refused > 0
    assert_same_adapter(alone("supervised")[0], pair / f"{name}, sharded")


def test_an_error_in_the_midst_of_a_pass_is_raised_on_both(pair: Path) -> None:
    first, second = ends_of(pair / "raise inside, sharded")
    assert (first.error, first.message) == (second.error, second.message)
    assert (first.error, first.message[:15]) == ("TrainingError", "training failed")


def test_answers_that_one_process_samples_are_those_of_the_whole_model(pair: Path, tmp_path: Path) -> None:
    train(tmp_path, workspace(tmp_path, pair / "counter", raw_rows(), runtime=WHOLE), RecordingObserver())
    sampled, expected = (folder / "outputs/dataset.jsonl" for folder in (pair / "built, sharded", tmp_path))
    assert sampled.read_bytes() == expected.read_bytes()
