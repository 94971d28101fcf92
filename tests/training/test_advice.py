import msgspec
import pytest

from tests.training.builders import question
from worker.training.advice import Rollouts, advise
from worker.training.data.examples import ChatExample, CompletionExample, Example, Message, NLFTExample
from worker.training.data.reader import Row


def answered(number: int, *, correct: bool | None = True, reference: str | None = None) -> NLFTExample:
    return NLFTExample(
        question(f"{number}?"),
        response="A",
        reference=str(number) if reference is None else reference,
        correct=correct,
        judgment="No." if correct is False else None,
    )


def lined(*examples: Example) -> list[Row]:
    return [Row(line, example) for line, example in enumerate(examples, start=1)]


SOUND = lined(*(answered(number, correct=number % 2 == 0) for number in range(20)))


def codes(rows: list[Row], held_out: list[Row] | None = None, rollouts: Rollouts | None = None) -> list[str]:
    return [found.code for found in advise(rows, held_out or [], rollouts)]


def test_sound_rows_get_no_advice() -> None:
    assert codes(SOUND, lined(answered(77)), Rollouts(sampled=100, right=40, cut_off=3)) == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (SOUND[:3], ["few_rows"]),
        (lined(*(answered(number) for number in range(20))), ["all_right"]),
        (lined(*(answered(number, correct=False) for number in range(20))), ["all_wrong"]),
        (lined(*(answered(number, correct=None) for number in range(20))), []),
        (
            [Row(row.line, msgspec.structs.replace(row.example, reference="4")) for row in SOUND],
            ["identical_references"],
        ),
        ([*SOUND, *SOUND[:3]], []),
        ([*SOUND, Row(50, SOUND[0].example)], ["duplicate_questions"]),
        ([*SOUND, Row(50, answered(0, reference="else"))], ["duplicate_questions", "conflicting_references"]),
        (
            [*SOUND, Row(21, NLFTExample(question("x?"), response="A", reference="2", correct=False))],
            ["wrong_without_judgment"],
        ),
    ],
)
def test_what_rows_will_not_teach(rows: list[Row], expected: list[str]) -> None:
    assert codes(rows) == expected


@pytest.mark.parametrize(
    ("rollouts", "expected"),
    [
        (Rollouts(50, 50, 0), ["base_knows_all"]),
        (Rollouts(50, 48, 0), ["base_knows_most"]),
        (Rollouts(50, 0, 0), ["base_knows_nothing"]),
        (Rollouts(50, 20, 10), ["responses_cut_off"]),
        (Rollouts(0, 0, 0), []),
    ],
)
def test_what_rollouts_say(rollouts: Rollouts, expected: list[str]) -> None:
    assert codes(SOUND, rollouts=rollouts) == expected


REASONED = "There are 3 boxes with 4 apples each, so 3 * 4 = 13 apples. #### 13"


def reasoned(reference: str, *, wrong: bool = True) -> list[Row]:
    rows = [
        answered(number, correct=number % 2 == 0 or not wrong, reference=f"{reference} {number}")
        for number in range(20)
    ]
    return lined(*(msgspec.structs.replace(row, response=REASONED) for row in rows))


def test_results_cannot_tell_which_step_of_a_response_is_wrong() -> None:
    assert codes(reasoned("####")) == ["references_without_steps"]
    assert codes(reasoned("3 boxes of 4 make 3 * 4 = 12. ####")) == []
    assert codes(reasoned("####", wrong=False)) == ["all_right"]


def test_validation_rows_that_are_trained_are_named() -> None:
    held_out = lined(answered(3), answered(99), answered(5, correct=None))
    found = advise(SOUND, held_out)[0]
    assert (found.code, found.level) == ("validation_in_training", "warn")
    assert found.to_json() == {"advice": "validation_in_training", "count": 2, "validation_lines": [1, 3]}


def test_repeated_questions_are_found_in_every_format() -> None:
    chat = ChatExample([*question("a"), Message("assistant", "b")])
    other = ChatExample([*question("a"), Message("assistant", "c")])
    assert "duplicate_questions" in codes(lined(chat, other))
    assert "duplicate_questions" in codes(lined(CompletionExample("a", "b"), CompletionExample("a", "c")))


def test_lines_are_few_and_1_based() -> None:
    again = [Row(100 + row.line, row.example) for row in SOUND for _ in range(2)]
    found = advise([*SOUND, *again])[0]
    assert found.data["count"] == 20
    assert found.data["lines"] == list(range(101, 121))
