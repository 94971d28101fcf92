"""Raw rows through all stages and training, with real models."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.training.builders import RecordingObserver
from tests.training.building.conftest import Endpoint
from tests.training.building.runs import dataset, messages, phases, raw_rows, report, run, workspace
from worker.training.building.keys import stage_keys
from worker.training.building.parts import part_path
from worker.training.data.reader import RowReader, read_rows
from worker.training.errors import TrainingStopped
from worker.training.events import CheckpointEvent, MetricsEvent, StageEvent
from worker.training.trainer import train


def test_questions_and_references_become_a_tuned_model(tmp_path: Path, counter: Path) -> None:
    observer = run(tmp_path, counter)
    assert phases(observer)[:6] == ["preparing", "rollout", "grading", "rationalization", "regrading", "judging"]
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
    built = {(stage, key) for stage, key, _ in told if stage != "scoring"}
    assert built == set(keys.items())
    assert all(path == part_path(*place) for place, path in told.items())
    shutil.copytree(tmp_path / "first/stages", tmp_path / "second/stages")
    second = run(tmp_path / "second", counter)
    assert second.of(StageEvent) == []
    assert messages(second).count("were there already") == 5
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
    said = ("It is 1.0", "#### 3", "#### 9/3", "none")
    rows = [row | {"response": text} for row, text in zip(raw_rows(), said, strict=True)]
    observer = run(tmp_path, counter, rows=rows, building={"judge": None})
    assert "4 responses graded." in messages(observer)
    built = [json.loads(line) for line in (tmp_path / "built/dataset.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in built] == [True, False, True, False]
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
    assert asked.messages[0]["content"].startswith("Question:\nSay ")


def test_an_instruction_of_the_users_own_is_filled_in(tmp_path: Path, counter: Path) -> None:
    endpoint = Endpoint(lambda _: "It should say the other number, 1, 2 or 3.")
    judge = {"type": "endpoint", "model": "big", "instruction": "{{ item.reference }} not {{ sample.output_text }}"}
    run(tmp_path, counter, endpoint, building={"judge": judge})
    assert all(request.messages[0]["content"].startswith("#### ") for request in endpoint.asked)
