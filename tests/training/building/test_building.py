"""Raw rows through all stages and training, with real models."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.training.builders import RecordingObserver, make_workspace
from tests.training.building.conftest import Endpoint
from worker.training.building.keys import stage_keys
from worker.training.building.parts import part_path
from worker.training.data.examples import NLFTExample
from worker.training.data.reader import RowReader, read_rows
from worker.training.errors import DatasetError, StageError, TrainingStopped
from worker.training.events import (
    CheckpointEvent,
    MessageEvent,
    MetricsEvent,
    PhaseEvent,
    StageEvent,
)
from worker.training.spec import BuildingSettings, TrainingSpec
from worker.training.trainer import train

ROLLOUT = {"n": 8, "max_new_tokens": 24, "temperature": 1.0, "batch_size": 16}


def raw_rows(count: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "messages": [{"role": "user", "content": f"Say {1 + line % 3}! ({line})"}],
            "reference": f"#### {1 + line % 3}",
        }
        for line in range(count)
    ]


def workspace(folder: Path, model: Path, rows: list[dict[str, Any]] | None = None, **fields: Any) -> TrainingSpec:
    building = {"rollout": ROLLOUT} | fields.pop("building", {})
    given = {"method": "nlft", "hyperparameters": {"n_epochs": 1, "batch_size": 4}} | fields
    return make_workspace(folder, model, rows or raw_rows(), building=BuildingSettings(**building), **given)


def run(folder: Path, model: Path, completions: Endpoint | None = None, **fields: Any) -> RecordingObserver:
    observer = RecordingObserver()
    train(folder, workspace(folder, model, **fields), observer, completions)
    return observer


def phases(observer: RecordingObserver) -> list[str]:
    return [event.phase for event in observer.of(PhaseEvent)]


def messages(observer: RecordingObserver) -> str:
    return "\n".join(f"{event.level}: {event.message}" for event in observer.of(MessageEvent))


def report(observer: RecordingObserver) -> dict[str, Any]:
    """Return the counts in the last word of the stages."""
    return next(e.data for e in reversed(observer.of(MessageEvent)) if e.data and "questions_all_right" in e.data)


def dataset(folder: Path) -> list[NLFTExample]:
    with (folder / "outputs/dataset.jsonl").open("rb") as file:
        rows = [row.example for row in read_rows(file)]
    assert all(isinstance(row, NLFTExample) for row in rows)
    return [row for row in rows if isinstance(row, NLFTExample)]


def test_questions_and_references_become_a_tuned_model(tmp_path: Path, counter: Path) -> None:
    observer = run(tmp_path, counter)
    assert phases(observer)[:4] == ["preparing", "rollout", "grading", "judging"]
    rows, counts = dataset(tmp_path), report(observer)
    assert counts["responses"] == 32
    assert len(rows) == counts["right"] + counts["wrong"]
    assert counts["right"] == sum(row.correct is True for row in rows) > 0
    assert counts["wrong"] == sum(row.judgment is not None for row in rows) > 0
    for row in rows:
        assert row.correct is (row.response == (row.reference or "").removeprefix("#### "))
        assert bool(row.judgment) is not row.correct
    assert f"{len(rows)} rows built: {counts['right']} right, {counts['wrong']} wrong" in messages(observer)
    assert len({(row.messages[0].text, row.response) for row in rows}) == len(rows)
    steps = observer.of(MetricsEvent)
    assert steps[-1].step == steps[-1].total_steps == -(-len(rows) // 4)


def test_the_built_dataset_is_a_training_file_that_lacks_nothing(tmp_path: Path, counter: Path) -> None:
    run(tmp_path / "first", counter)
    data = (tmp_path / "first/outputs/dataset.jsonl").read_bytes()
    reader = RowReader()
    rows = list(reader.rows([data]))
    assert (reader.report().total_problems, reader.report().total_warnings) == (0, 0)
    spec = workspace(tmp_path / "second", counter, [json.loads(line) for line in data.splitlines()])
    assert stage_keys(spec, rows) == {}
    observer = RecordingObserver()
    train(tmp_path / "second", spec, observer)
    assert "rollout" not in phases(observer)
    assert not (tmp_path / "second/outputs/dataset.jsonl").exists()


def test_parts_that_are_there_are_not_made_again(tmp_path: Path, counter: Path) -> None:
    first = run(tmp_path / "first", counter)
    told = {(event.stage, event.key, event.part): event.path for event in first.of(StageEvent)}
    spec = workspace(tmp_path / "second", counter)
    with (tmp_path / "second/inputs/training.jsonl").open("rb") as file:
        keys = stage_keys(spec, read_rows(file))
    assert {(stage, key) for stage, key, _ in told} == set(keys.items())
    assert all(path == part_path(*place) for place, path in told.items())
    shutil.copytree(tmp_path / "first/stages", tmp_path / "second/stages")
    second = run(tmp_path / "second", counter)
    assert second.of(StageEvent) == []
    assert messages(second).count("were there already") == 3
    assert dataset(tmp_path / "second") == dataset(tmp_path / "first")


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"line":1}\n', b'{"line":9,"index":0,"response":"","finished":true,"tokens":1}\n']
)
def test_a_damaged_part_is_made_again(tmp_path: Path, counter: Path, damage: bytes) -> None:
    first = run(tmp_path, counter)
    expected = dataset(tmp_path)
    for event in first.of(StageEvent):
        (tmp_path / event.path).write_bytes(damage)
    again = run(tmp_path, counter)
    assert again.of(StageEvent) == first.of(StageEvent)
    assert dataset(tmp_path) == expected


def test_a_resumed_run_keeps_its_rows_and_ends_in_the_same_bits(tmp_path: Path, counter: Path) -> None:
    whole, part, rest = (tmp_path / name for name in ("whole", "part", "rest"))
    run(whole, counter)
    stopped = RecordingObserver(after_step=1)
    with pytest.raises(TrainingStopped):
        train(part, workspace(part, counter), stopped)
    spec = workspace(rest, counter)
    shutil.copytree(part / stopped.of(CheckpointEvent)[-1].path, rest / "resume")
    resumed = RecordingObserver()
    train(rest, spec, resumed)
    assert "rollout" not in phases(resumed)
    for name in ("dataset.jsonl", "adapter_model.safetensors"):
        assert (rest / "outputs" / name).read_bytes() == (whole / "outputs" / name).read_bytes()


class StopInRollout(RecordingObserver):
    """Wants the run to stop once the first part is kept."""

    def stop_requested(self) -> Any:
        return "stop" if self.of(StageEvent) else None


def test_a_stop_between_parts_keeps_those_that_are_done(tmp_path: Path, counter: Path) -> None:
    rows = raw_rows(40)
    observer = StopInRollout()
    with pytest.raises(TrainingStopped):
        train(tmp_path, workspace(tmp_path, counter, rows), observer)
    assert [(event.stage, event.part) for event in observer.of(StageEvent)] == [("rollout", 0)]
    later = run(tmp_path, counter, rows=rows)
    first = later.of(StageEvent)[0]
    assert (first.stage, first.part) == ("rollout", 1)


def test_right_responses_alone_make_rejection_sampling(tmp_path: Path, counter: Path) -> None:
    observer = run(tmp_path, counter, method="supervised", building={"mixture": {"max_wrong_per_question": 0}})
    assert "judging" not in phases(observer)
    rows = dataset(tmp_path)
    assert rows
    assert all(row.correct for row in rows)


def test_rows_that_lack_nothing_pass_through(tmp_path: Path, counter: Path) -> None:
    given = {**raw_rows(1)[0], "response": "My own answer 7", "correct": False, "judgment": "It is one, not 7."}
    run(tmp_path, counter, rows=[given, *raw_rows(2)])
    rows = dataset(tmp_path)
    assert (rows[0].response, rows[0].judgment) == ("My own answer 7", "It is one, not 7.")
    assert len(rows) > 3


def test_grades_alone_make_no_dataset_of_their_own(tmp_path: Path, counter: Path) -> None:
    rows = [row | {"response": row["reference"]} for row in raw_rows()]
    observer = run(tmp_path, counter, rows=rows)
    assert "4 responses graded." in messages(observer)
    assert not (tmp_path / "outputs/dataset.jsonl").exists()


def test_without_a_judge_wrong_rows_go_without_a_judgment(tmp_path: Path, counter: Path) -> None:
    observer = run(tmp_path, counter, building={"judge": None})
    assert "judging" not in phases(observer)
    assert not any(row.judgment for row in dataset(tmp_path))
    assert report(observer)["unjudged"] == report(observer)["wrong"] > 0


def test_the_model_judges_itself(tmp_path: Path, counter: Path) -> None:
    observer = run(tmp_path, counter, building={"judge": {"type": "self", "max_new_tokens": 8}})
    counts = report(observer)
    assert counts["judged"] == counts["wrong"] > 0
    assert counts["judgments_dropped"]["nothing_usable"] == counts["unjudged"]
    assert "warn: " in messages(observer)


def test_an_endpoint_judges_and_its_useless_judgments_are_dropped(tmp_path: Path, counter: Path) -> None:
    useful = "It should say the other number, 1, 2 or 3."
    replies = (useful, "The answer is correct.", "", "Hello there friend.", "<timeout>")
    endpoint = Endpoint(lambda number: replies[number % len(replies)])
    judge = {"type": "endpoint", "model": "big/judge", "sampling_params": {"temperature": 0.1}}
    observer = run(tmp_path, counter, endpoint, building={"judge": judge})
    counts = report(observer)
    assert counts["judged"] == counts["wrong"] == len(endpoint.asked)
    assert set(counts["judgments_dropped"]) == {"says_correct", "empty", "nothing_usable", "failed"}
    assert sum(row.judgment == useful for row in dataset(tmp_path)) == counts["wrong"] - counts["unjudged"] > 0
    assert "judging" not in {event.stage for event in observer.of(StageEvent)}  # a later run asks again
    asked = endpoint.asked[0]
    assert (asked.model, asked.sampling) == ("big/judge", {"temperature": 0.1})
    assert "Say 1!" in asked.messages[0]["content"]


def test_an_instruction_of_the_users_own_is_filled_in(tmp_path: Path, counter: Path) -> None:
    endpoint = Endpoint(lambda _: "It should say the other number, 1, 2 or 3.")
    judge = {"type": "endpoint", "model": "big", "instruction": "{{ item.reference }} not {{ sample.output_text }}"}
    run(tmp_path, counter, endpoint, building={"judge": judge})
    assert all(request.messages[0]["content"].startswith("#### ") for request in endpoint.asked)


def failure(folder: Path, model: Path, completions: Endpoint | None = None, **fields: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        run(folder, model, completions, **fields)
    return caught.value


def test_a_model_that_says_nothing_fails_the_rollout(tmp_path: Path, mute: Path) -> None:
    error = failure(tmp_path, mute)
    assert error.code == "rollout_failed"
    assert "32 are empty" in error.message


def test_a_model_that_never_ends_fails_the_rollout(tmp_path: Path, babbler: Path) -> None:
    error = failure(tmp_path, babbler, building={"rollout": {"n": 1, "max_new_tokens": 2}})
    assert error.code == "rollout_failed"
    assert "4 were cut off at 2 tokens; raise rollout.max_new_tokens" in error.message


SCORING = {
    "type": "score_model",
    "name": "s",
    "model": "big",
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}


@pytest.mark.parametrize("reply", ["<refused>", "<timeout>", "I would rather not say."])
def test_a_grader_that_scores_nothing_fails_the_grading(tmp_path: Path, counter: Path, reply: str) -> None:
    error = failure(tmp_path, counter, Endpoint(lambda _: reply), building={"grader": SCORING})
    assert (error.code, error.param) == ("grading_failed", "grader")


def test_a_run_without_endpoints_says_so(tmp_path: Path, counter: Path) -> None:
    assert "no connection to endpoints" in failure(tmp_path, counter, building={"grader": SCORING}).message


def test_responses_that_a_grader_cannot_score_are_left_out(tmp_path: Path, counter: Path) -> None:
    endpoint = Endpoint(lambda number: ("1.0", "0", "<timeout>")[number % 3])
    observer = run(tmp_path, counter, endpoint, building={"grader": SCORING})
    assert report(observer)["ungraded"] > 0
    assert "could not be graded and are left out" in messages(observer)


@pytest.mark.parametrize("code", ["refused", "timeout", "budget_exhausted", "unknown_endpoint"])
def test_a_judge_that_answers_nothing_fails_the_judging(tmp_path: Path, counter: Path, code: str) -> None:
    endpoint = Endpoint(lambda _: f"<{code}>")
    error = failure(tmp_path, counter, endpoint, building={"judge": {"type": "endpoint", "model": "big"}})
    assert (error.code, error.param) == ("judging_failed", "judge")
    assert code in error.message


def test_a_mixture_that_leaves_nothing_fails(tmp_path: Path, counter: Path) -> None:
    mixture = {"max_wrong_per_question": 0}
    error = failure(tmp_path, counter, method="supervised", building={"mixture": mixture, "pass_threshold": 2.0})
    assert error.code == "grading_failed"
    assert "of 0 right and" in error.message


def test_built_rows_that_do_not_fit_are_left_out_and_given_ones_refused(tmp_path: Path, counter: Path) -> None:
    rows = raw_rows(6)
    rows[5]["reference"] = f"{'long ' * 30}#### 3"
    shape = {"n_epochs": 1, "batch_size": 4, "max_seq_length": 200}
    observer = run(tmp_path / "made", counter, rows=rows, hyperparameters=shape)
    assert "built rows are left out: they are longer" in messages(observer)
    assert {row.messages[0].text for row in dataset(tmp_path / "made")} == {
        row["messages"][0]["content"] for row in rows[:5]
    }
    rows[5]["response"], rows[5]["correct"] = "#### 3", True
    with pytest.raises(DatasetError) as caught:
        run(tmp_path / "given", counter, rows=rows, hyperparameters=shape)
    assert {(problem.line, problem.code) for problem in caught.value.problems} == {(6, "too_many_tokens")}


def test_a_prompt_that_fills_the_context_is_named_before_anything_is_sampled(tmp_path: Path, counter: Path) -> None:
    rows = raw_rows(3)
    rows[1]["messages"][0]["content"] = "x " * 600
    rows[2]["messages"][0]["content"] = "<|im_end|>"
    with pytest.raises(DatasetError) as caught:
        run(tmp_path, counter, rows=rows)
    assert [(problem.line, problem.code) for problem in caught.value.problems] == [
        (2, "too_many_tokens"),
        (3, "special_token"),
    ]
