"""Predictions against the arithmetic that they stand for, and against runs that were really made."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import FACTS, RecordingObserver, make_workspace, question, sum_rows
from worker.training.data.examples import ChatExample, CompletionExample, Example, Message, NLFTExample
from worker.training.data.reader import Row, read_rows
from worker.training.estimation.pace import learn_pace
from worker.training.estimation.prediction import Sample, predict
from worker.training.estimation.workload import BACKWARD_FACTOR, CHARACTERS, TextScale, fit_scale, measure_workload
from worker.training.events import MessageEvent, MetricsEvent, PhaseEvent, SettingsEvent
from worker.training.methods import METHODS
from worker.training.methods.prompts import PROMPT_SETS
from worker.training.observer import NullObserver
from worker.training.spec import (
    TRAINING_FILE,
    BaseModelRef,
    BuildingSettings,
    LoraSettings,
    MixtureSettings,
    RationalizationSettings,
    RolloutSettings,
    TrainingSpec,
)
from worker.training.trainer import train
from worker.training.usage import PhaseClock

SUPERVISED, NLFT = METHODS["supervised"], METHODS["nlft"]
GUESS = learn_pace([], 135_000_000)


def make_spec(method: str = "nlft", **fields: Any) -> TrainingSpec:
    ref = BaseModelRef(name="m", path="/m", digest="d")
    return TrainingSpec(**{"job_id": "j", "base_model": ref, "method": method, "hyperparameters": {}} | fields)


def sample(*examples: Example, total: int | None = None) -> Sample:
    return Sample([Row(line, one) for line, one in enumerate(examples, 1)], total or len(examples))


def asked(count: int) -> list[Example]:
    return [NLFTExample(question(f"{number:04d}"), reference="r" * 4) for number in range(count)]


@pytest.mark.parametrize(
    ("row", "main"),
    [
        (ChatExample([*question("q" * 8), Message("assistant", "a" * 4)]), 12),
        (CompletionExample("q" * 8, "a" * 4), 13),
        (NLFTExample(question("q" * 8), response="a" * 4, reference="r"), 13),
    ],
)
def test_characters_become_tokens(row: Example, main: int) -> None:
    hyperparameters = SUPERVISED.hyperparameters_type()
    assert measure_workload(SUPERVISED, hyperparameters, [row], CHARACTERS).main == main
    work = measure_workload(SUPERVISED, hyperparameters, [row], TextScale(2.0))
    assert work.main == pytest.approx(main / 2, abs=0.5)
    assert work.step_work == BACKWARD_FACTOR * work.main


@pytest.mark.parametrize("scoring", ["online", "frozen"])
def test_contexts_without_gradient_are_counted_where_they_run(scoring: str) -> None:
    row = NLFTExample(question("q"), response="a", reference="r", judgment="j", correct=False)
    hyperparameters = NLFT.hyperparameters_type.resolve({"scoring": scoring, "hindsight_weight": 0}, FACTS)
    work = measure_workload(NLFT, hyperparameters, [row], CHARACTERS)
    gradient = BACKWARD_FACTOR * work.main
    if scoring == "frozen":
        assert work.step_work == gradient
        assert work.cached_work > work.main
    else:
        assert work.step_work > gradient + work.main
        assert work.cached_work == 0


def test_what_rows_begin_with_alike_is_counted_as_often_as_it_is_computed() -> None:
    """Instructions of 1,000 characters before questions and answers of ten each, four rows a step."""
    rows = [
        ChatExample([Message("system", "i" * 1000), *question(str(n) * 10), Message("assistant", "a" * 10)])
        for n in range(9)
    ]
    chosen = SUPERVISED.hyperparameters_type(batch_size=4)
    alone, work = (measure_workload(SUPERVISED, chosen, some, CHARACTERS) for some in (rows[:1], rows))
    assert (alone.main, work.main) == (1020, 1020)
    assert alone.step_work == BACKWARD_FACTOR * 1020
    assert work.step_work == pytest.approx(BACKWARD_FACTOR * (20 + 1000 / 4), rel=0.05)
    single = measure_workload(SUPERVISED, SUPERVISED.hyperparameters_type(batch_size=1), rows, CHARACTERS)
    assert single.step_work == alone.step_work


def test_a_run_teaches_its_pace_by_what_it_computed(tmp_path: Path, tiny_model: TinyModel) -> None:
    """The work behind a second of training is that of a prediction for the same rows."""
    instructions = {"role": "system", "content": "Add up. " * 30}
    rows = [{**row, "messages": [instructions, *row["messages"]]} for row in sum_rows(8)]
    spec = make_workspace(tmp_path, tiny_model(), rows, hyperparameters={"n_epochs": 1, "batch_size": 4})
    observer = RecordingObserver()
    usage = train(tmp_path, spec, observer).usage
    work = sum(event.seconds for event in observer.of(MetricsEvent)) / usage["seconds_per_work"]
    method = METHODS[spec.method]
    hyperparameters = method.hyperparameters_type.resolve(spec.hyperparameters, FACTS)
    examples = [row.example for row in read_rows([(tmp_path / TRAINING_FILE).read_bytes()])]
    scale = TextScale(usage["characters_per_token"], usage["template_tokens"])
    predicted = measure_workload(method, hyperparameters, examples, scale)
    assert work == pytest.approx(predicted.step_work * len(rows), rel=0.1)


def test_steps_follow_from_rows_passes_and_batch() -> None:
    rows = [NLFTExample(question(str(number)), response="a", reference="r", correct=True) for number in range(10)]
    spec = make_spec(hyperparameters={"n_epochs": 3, "batch_size": 4})
    found = predict(spec, FACTS, GUESS, sample(*rows, total=1000), None)
    assert found["rows"]["value"] == 1000
    assert found["steps"]["value"] == 3 * 250
    assert "first 10 rows" in found["trained_tokens"]["basis"]
    assert found["generated_tokens"]["value"] == 0


@pytest.mark.parametrize(
    ("mixture", "rows"),
    [
        ({}, 80),
        ({"max_wrong_per_question": 0}, 40),
        ({"max_rows": 30}, 30),
        ({"references_as_right": True}, 100),
        ({"wrong_share": 0.25}, 53),
    ],
)
def test_rows_to_be_built_are_mixed_as_the_run_will(mixture: dict[str, Any], rows: int) -> None:
    building = BuildingSettings(rollout=RolloutSettings(n=4, max_new_tokens=20), mixture=MixtureSettings(**mixture))
    found = predict(make_spec(building=building), FACTS, GUESS, sample(*asked(20)), None)
    assert found["rows"]["value"] == rows
    assert found["generated_tokens"]["value"] == 20 * 4 * 10


@pytest.mark.parametrize(("accuracy", "rows", "responses"), [(0.1, 5, 5 * (4 + 3)), (0.5, 20, 5 * 4)])
def test_a_question_that_no_response_is_likely_to_solve_is_answered_with_the_reference_shown(
    accuracy: float, rows: int, responses: int
) -> None:
    pace = learn_pace([{"response_tokens": 7.0, "base_accuracy": accuracy}] * 3, 1000)
    building = BuildingSettings(rationalization=RationalizationSettings(n=3))
    found = predict(make_spec(building=building), FACTS, pace, sample(*asked(5)), None)
    assert (found["rows"]["value"], found["generated_tokens"]["value"]) == (rows, responses * 7)


def test_the_worked_reference_of_such_a_question_is_trained_itself() -> None:
    pace = learn_pace([{"response_tokens": 7.0, "base_accuracy": 0.1}] * 3, 1000)
    building = BuildingSettings(rollout=RolloutSettings(n=4), mixture=MixtureSettings(max_wrong_per_question=0))
    worked = [msgspec.structs.replace(one, reference="so " * 12) for one in asked(5)]
    found = predict(make_spec(building=building), FACTS, pace, sample(*worked), None)
    assert (found["rows"]["value"], found["generated_tokens"]["value"]) == (5, 5 * 4 * 7)


def test_what_was_learned_replaces_guesses() -> None:
    outcomes = [
        {"characters_per_token": 2.0, "response_tokens": 7.0, "base_accuracy": 1.0, "seconds_per_work": 0.5}
    ] * 3
    pace = learn_pace([*outcomes, {"characters_per_token": 9.0}], 1000)
    assert (pace.characters_per_token.value, pace.seconds_per_work.value) == (2.0, 0.5)
    assert "4 finished job(s)" in pace.characters_per_token.basis
    assert "guessed" in pace.other_seconds.basis
    building = BuildingSettings(mixture=MixtureSettings(max_wrong_per_question=0))
    found = predict(make_spec(building=building), FACTS, pace, sample(*asked(5)), None)
    assert found["generated_tokens"]["value"] == 5 * 4 * 7
    assert found["rows"]["value"] == 20


def test_times_and_memory_of_a_shared_process_teach_nothing() -> None:
    shared = {"characters_per_token": 2.0, "seconds_per_work": 9.0, "peak_memory_bytes": 9e9, "jobs_on_base": 3}
    pace = learn_pace([shared], 1000)
    assert pace.characters_per_token.value == 2.0
    assert (pace.seconds_per_work, pace.peak_memory_bytes) == (
        learn_pace([], 1000).seconds_per_work,
        learn_pace([], 1000).peak_memory_bytes,
    )
    own = {"seconds_per_work": 0.5, "peak_memory_bytes": 1e9}
    pace = learn_pace([shared, own], 1000)
    assert (pace.seconds_per_work.value, pace.peak_memory_bytes.value) == (0.5, 1e9)


def test_steps_with_kept_hidden_states_teach_nothing_and_are_predicted_without() -> None:
    keeping = {"characters_per_token": 2.0, "seconds_per_work": 0.1, "other_seconds": 4.0, "peak_memory_bytes": 9e9}
    pace = learn_pace([keeping | {"hidden_state_bytes": 5e6}], 1000)
    assert (pace.characters_per_token.value, pace.other_seconds.value) == (2.0, 4.0)
    assert (pace.seconds_per_work, pace.peak_memory_bytes) == (
        learn_pace([], 1000).seconds_per_work,
        learn_pace([], 1000).peak_memory_bytes,
    )
    adapter = LoraSettings(layers_to_transform=[-1], cache_frozen_hidden_states=True)
    plain, kept = (
        predict(spec, FACTS, pace, sample(*asked(5)), None) for spec in (make_spec(), make_spec(adapter=adapter))
    )
    for name, told in (("seconds", "not counted"), ("peak_memory_bytes", "in host memory")):
        assert kept[name]["value"] == plain[name]["value"]
        assert told in kept[name]["basis"]
        assert told not in plain[name]["basis"]


def test_a_run_teaches_the_next_prediction(tmp_path: Path, tiny_model: TinyModel) -> None:
    chosen = {"n_epochs": 2, "batch_size": 4}
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(10), method="nlft", hyperparameters=chosen)
    took = train(tmp_path, spec, NullObserver()).usage
    with (tmp_path / TRAINING_FILE).open("rb") as file:
        rows = read_rows(file)
    found = predict(spec, FACTS, learn_pace([took], 1000), Sample(rows, len(rows)), None)
    for name in ("rows", "steps"):
        assert found[name]["value"] == took[name]
    for name in ("trained_tokens", "scored_tokens", "longest_sequence"):
        assert found[name]["value"] == pytest.approx(took[name], rel=0.15)
    assert found["peak_memory_bytes"]["value"] == took["peak_memory_bytes"] > 50_000_000
    assert 0 < found["seconds"]["value"] < 2 * took["seconds"] + 1


def test_settings_that_waited_are_told_with_reasons_and_the_manifest_spells_them_out(
    tmp_path: Path, tiny_model: TinyModel
) -> None:
    chosen = {"n_epochs": "auto", "batch_size": "auto", "learning_rate": 1e-4}
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(6), method="nlft", hyperparameters=chosen)
    observer = RecordingObserver()
    train(tmp_path, spec, observer)
    (told,) = observer.of(SettingsEvent)
    assert told.auto.keys() == {"n_epochs", "batch_size"}
    assert all(told.hyperparameters[name] == choice["value"] for name, choice in told.auto.items())
    advice = [event.data["advice"] for event in observer.of(MessageEvent) if event.data and "advice" in event.data]
    assert advice == ["few_rows"]
    manifest = json.loads((tmp_path / "outputs" / "manifest.json").read_text())["spec"]["hyperparameters"]
    assert manifest["n_epochs"] == told.hyperparameters["n_epochs"]
    assert manifest["prompts"] == PROMPT_SETS["default"].model_dump()


def test_the_scale_of_text_is_fitted() -> None:
    assert fit_scale([10, 20, 40], [15, 20, 30]) == pytest.approx((2.0, 10.0))
    assert fit_scale([10, 10], [5, 6]) is None
    assert fit_scale([10, 20], [6, 5]) is None


def test_phases_are_timed() -> None:
    now = iter([0.0, 1.0, 3.0, 7.0])
    clock = PhaseClock(NullObserver(), lambda: next(now))
    clock.emit(PhaseEvent("preparing"))
    clock.emit(PhaseEvent("training"))
    assert clock.spent() == {"preparing": 2.0, "training": 4.0}
