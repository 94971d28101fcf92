import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from worker.training.data.examples import Message, NLFTExample, TextPart
from worker.training.graders import Sample, grade, sample_of
from worker.training.spec import BuildingSettings, EvaluationSettings, Grader

ROW = NLFTExample(
    messages=[
        Message("system", "Be brief."),
        Message("user", "One?"),
        Message("assistant", "1"),
        Message("user", [TextPart("What is "), TextPart("2 + 2?")]),
    ],
    reference="#### 4",
)
_GRADERS: TypeAdapter[Grader] = TypeAdapter(Grader)


def grader(**fields: Any) -> Grader:
    return _GRADERS.validate_python({"name": "it", **fields})


def string_check(operation: str, text: str, reference: str = "{{ item.reference }}") -> Grader:
    return grader(type="string_check", operation=operation, input=text, reference=reference)


@pytest.mark.parametrize(
    ("operation", "response", "reference", "score"),
    [
        ("eq", "Paris", "Paris", 1),
        ("eq", "paris", "Paris", 0),
        ("ne", "paris", "Paris", 1),
        ("ne", "Paris", "Paris", 0),
        ("like", "It is Paris.", "Paris", 1),
        ("like", "It is PARIS.", "Paris", 0),
        ("ilike", "It is PARIS.", "Paris", 1),
        ("ilike", "Rome", "Paris", 0),
    ],
)
def test_string_check(operation: str, response: str, reference: str, score: float) -> None:
    found = grade(string_check(operation, "{{ sample.output_text }}"), Sample(response, {"reference": reference}))
    assert (found.score, found.errors) == (score, ())


def test_rows_have_a_question_messages_and_a_reference() -> None:
    sample = sample_of(ROW, "It is 4.")
    text = "{{item.question}}|{{ item.reference }}|{{ item.messages[0].content }}|{{ item['judgment'] }}"
    assert grade(string_check("eq", text, "What is 2 + 2?|#### 4|Be brief.|"), sample).score == 1
    assert grade(grader(type="final_answer"), sample).score == 1


def test_an_answer_at_the_end_of_a_row_is_not_part_of_its_question() -> None:
    row = NLFTExample(messages=[Message("user", "2 + 2?"), Message("assistant", "4")], reference="4")
    sample = sample_of(row, "5")
    assert sample.item["messages"] == [{"role": "user", "content": "2 + 2?"}]
    assert sample.item["question"] == "2 + 2?"


def test_what_a_model_called_can_be_graded() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    text = "{{ sample.output_tools[0].function.name }}"
    assert grade(string_check("eq", text, "add"), sample_of(ROW, "", [call])).score == 1
    (error,) = grade(string_check("eq", text, "add"), sample_of(ROW, "")).errors
    assert error.kind == "invalid_variable_error"


def test_a_response_that_should_be_json() -> None:
    checked = string_check("eq", "{{ sample.output_json.answer }}", "4")
    assert grade(checked, Sample(json.dumps({"answer": 4}))).score == 1
    (error,) = grade(checked, Sample("four")).errors
    assert error.kind == "sample_parse_error"


def test_a_name_that_the_item_lacks_is_an_error_without_its_values() -> None:
    (error,) = grade(string_check("eq", "{{ item.anwser }}"), Sample("x", {"answer": "secret"})).errors
    assert (error.kind, error.message) == ("invalid_variable_error", "there is no item.anwser; item has answer")


def test_final_answers_need_a_reference() -> None:
    found = grade(grader(type="final_answer"), Sample("4"))
    assert (found.score, found.errors[0].kind) == (0, "invalid_variable_error")


def test_a_formula_over_graders() -> None:
    parts = {
        "correct": {"type": "final_answer"},
        "close": {
            "type": "text_similarity",
            "name": "close",
            "input": "{{ sample.output_text }}",
            "reference": "{{ item.reference }}",
            "evaluation_metric": "fuzzy_match",
        },
    }
    found = grade(
        grader(type="multi", graders=parts, calculate_output="0.75 * correct + close / 4"), sample_of(ROW, "#### 4")
    )
    assert (found.score, found.scores) == (1, {"correct": 1, "close": 1})
    divided = grade(grader(type="multi", graders=parts, calculate_output="1 / correct"), sample_of(ROW, "#### 5"))
    assert (divided.score, divided.errors[0].kind) == (0, "other_error")
    failed = grade(grader(type="multi", graders=parts, calculate_output="correct * 0"), Sample("4"))
    assert {error.kind for error in failed.errors} == {"invalid_variable_error"}


FAULTS = [
    ({"type": "python", "source": "import os"}, "runs no code of its users"),
    ({"type": "label_model"}, "score_model"),
    ({"type": "text_similarity", "input": "a", "reference": "b", "evaluation_metric": "cosine"}, "fuzzy_match"),
    ({"type": "final_answer", "extract": "pattern"}, "belongs to extract 'pattern'"),
    ({"type": "final_answer", "pattern": "x"}, "belongs to extract 'pattern'"),
    ({"type": "final_answer", "extract": "pattern", "pattern": "(?=x)"}, r"invalid perl operator: \(\?="),
    ({"type": "multi", "graders": {"a": {"type": "final_answer"}}, "calculate_output": "a + b"}, "uses 'b'"),
    ({"type": "multi", "graders": {"a-b": {"type": "final_answer"}}, "calculate_output": "1"}, "'a-b' cannot stand"),
    ({"type": "multi", "graders": {"min": {"type": "final_answer"}}, "calculate_output": "1"}, "'min' cannot stand"),
    ({"type": "multi", "graders": {"m": {"type": "multi"}}, "calculate_output": "m"}, "'multi' found using 'type'"),
    ({"type": "score_model", "model": "j", "input": [{"role": "user", "content": "{{ it }}"}]}, "unknown name 'it'"),
    ({"type": "score_model", "model": "j", "input": [], "range": [0, 1]}, "at least 1 item"),
    ({"type": "score_model", "model": "j", "input": [{"role": "user", "content": "x"}], "range": [1, 1]}, "lowest"),
    (
        {"type": "score_model", "model": "j", "input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "must be text",
    ),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS)
def test_what_cannot_work_is_refused_when_it_is_written(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        grader(**fields)


def test_messages_may_come_in_parts_and_settings_under_the_name_of_openai() -> None:
    content = [{"type": "input_text", "text": "Grade "}, "{{ sample.output_text }}"]
    found = grader(
        type="score_model",
        model="judge",
        input=[{"type": "message", "role": "user", "content": content}],
        sampling_params={"max_completions_tokens": 5, "reasoning_effort": "low"},
    )
    dumped = found.model_dump(by_alias=True, exclude_none=True)
    assert dumped["input"][0]["content"] == "Grade {{ sample.output_text }}"
    assert dumped["sampling_params"] == {"max_completions_tokens": 5, "reasoning_effort": "low"}
    assert _GRADERS.validate_python(found.model_dump()) == found


def test_a_job_grades_rows_and_its_evaluation_asks_nobody() -> None:
    unknown = {"type": "string_check", "name": "x", "input": "{{ item.answer }}", "reference": "a", "operation": "eq"}
    with pytest.raises(ValidationError, match=r"no item\.answer; the item of a row has messages, question"):
        BuildingSettings.model_validate({"grader": unknown})
    asking = {"type": "score_model", "name": "x", "model": "judge", "input": [{"role": "user", "content": "?"}]}
    assert BuildingSettings.model_validate({"grader": asking}).grader.type == "score_model"
    hidden = {"type": "multi", "name": "m", "graders": {"a": asking}, "calculate_output": "a"}
    for refused in (asking, hidden):
        with pytest.raises(ValidationError, match="asks an endpoint"):
            EvaluationSettings.model_validate({"grader": refused})
