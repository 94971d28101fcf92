"""What goes wrong in a stage ends the run with a code that names it, or is counted and told."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.building.conftest import Endpoint
from tests.training.building.runs import dataset, messages, raw_rows, report, run
from worker.training.errors import DatasetError, StageError


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
