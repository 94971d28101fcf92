from collections.abc import Callable, Sequence

import pytest

from worker.training.events import CompletionAnswer, CompletionRequest
from worker.training.graders import Sample, grade, grade_all
from worker.training.graders.score_model import UnreadableScoreError, read_score
from worker.training.spec import GraderMessage, MultiGrader, SamplingSettings, ScoreModelGrader

GRADER = ScoreModelGrader(
    name="taste",
    model="judge/large",
    input=[
        GraderMessage(role="system", content="You grade."),
        GraderMessage(role="user", content="{{ item.question }}\n{{ sample.output_text }}"),
    ],
    range=(0, 10),
    sampling_params=SamplingSettings(temperature=0, max_tokens=8),
)


class Scripted:
    """Answers questions from a list; each entry is a text or an error code."""

    def __init__(self, *texts: str | None) -> None:
        self._texts = texts
        self.asked: list[CompletionRequest] = []

    def complete(
        self, requests: Sequence[CompletionRequest], on_done: Callable[[int, int], None]
    ) -> list[CompletionAnswer]:
        self.asked += requests
        on_done(len(requests), len(requests))
        return [
            CompletionAnswer(request.id, code="timeout", error="no answer")
            if text is None
            else CompletionAnswer(request.id, text, tokens=5)
            for request, text in zip(requests, self._texts, strict=True)
        ]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("0.8", 0.8),
        (" 1 \n", 1.0),
        (".5", 0.5),
        ('{"score": 0.25}', 0.25),
        ('```json\n{"result": "0.25", "reasons": [1, 2]}\n```', 0.25),
        ("Step 3 is wrong. **Score: 0.5**", 0.5),
        ("Score: 0.1? No.\nFinal score is 0.9", 0.9),
        ("The 2 steps and the 7 are right.\n\n0.75", 0.75),
        ("I would give it 4/5", 0.8),
        ("rating: 80%", 0.8),
        ("score = `1.0`.", 1.0),
        ("<think>maybe 0.2</think>\n0.4", 0.4),
        ("score: \u22120", 0.0),
        ("1e-1", 0.1),
    ],
)
def test_a_score_is_found_in_what_models_write(text: str, score: float) -> None:
    assert read_score(text, (0, 1)) == pytest.approx(score)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "I'm sorry, I cannot do that.", "between 0.2 and 0.7", "2", "-1", "nan", "inf", '{"score": true}',
        '{"score": null}', '{"score": 1e999}', '{"score": ' + "9" * 400 + "}", "[" * 100_000, '{"a":' * 50_000,
        "score: 7", "1e99", "v1.2.3", "<html><h1>502</h1></html>",
    ],
)  # fmt: skip
def test_nonsense_is_no_score(text: str) -> None:
    with pytest.raises(UnreadableScoreError):
        read_score(text, (0, 1))


def test_out_of_the_range_end_is_the_score_itself() -> None:
    assert read_score("4/5", (1, 5)) == 4
    assert read_score("80%", (0, 100)) == 80
    assert read_score("8/10", (0, 100)) == pytest.approx(0.8)


def test_the_model_sees_the_filled_in_messages_and_how_to_answer() -> None:
    scripted = Scripted("7")
    assert grade(GRADER, Sample("hello", {"question": "Greet."}), scripted).score == 7
    (request,) = scripted.asked
    assert request.model == "judge/large"
    assert request.sampling == {"temperature": 0, "max_tokens": 8}
    assert [message["role"] for message in request.messages] == ["system", "user"]
    assert request.messages[0]["content"] == "You grade."
    assert request.messages[1]["content"].startswith("Greet.\nhello\n\n")
    assert "from 0 to 10" in request.messages[1]["content"]


def test_each_failure_stays_with_its_sample() -> None:
    samples = [
        Sample("a", {"question": "q"}),
        Sample("b"),
        Sample("c", {"question": "q"}),
        Sample("d", {"question": "q"}),
    ]
    scripted = Scripted("3", None, "eleven, or 11")
    progress: list[tuple[int, int]] = []
    grades = grade_all(GRADER, samples, scripted, lambda done, total: progress.append((done, total)))
    assert [found.score for found in grades] == [3, 0, 0, 0]
    assert [[error.kind for error in found.errors] for found in grades] == [
        [],
        ["invalid_variable_error"],
        ["model_grader_server_error"],
        ["model_grader_parse_error"],
    ]
    assert grades[2].errors[0].message == "timeout: no answer"
    assert "11" in grades[3].errors[0].message
    assert progress == [(3, 3)]
    assert len({request.id for request in scripted.asked}) == 3


def test_parts_of_a_formula_are_asked_together() -> None:
    strict = GRADER.model_copy(update={"model": "judge/strict"})
    grader = MultiGrader(
        name="both", graders={"mild": GRADER, "strict": strict}, calculate_output="(mild + strict) / 20"
    )
    scripted = Scripted("4", "6", "2", "8")
    grades = grade_all(grader, [Sample(text, {"question": "q"}) for text in "xy"], scripted)
    assert [found.score for found in grades] == [pytest.approx(0.3), pytest.approx(0.7)]
    assert grades[1].scores == {"mild": 6, "strict": 8}
    assert grades[1].tokens == {"judge/large": 5, "judge/strict": 5}


def test_without_anybody_to_ask_there_is_an_error() -> None:
    (error,) = grade(GRADER, Sample("hello", {"question": "q"})).errors
    assert error.kind == "model_grader_server_error"
