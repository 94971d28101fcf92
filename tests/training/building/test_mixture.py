from dataclasses import replace
from typing import Any

import msgspec
import pytest

from worker.training.building.candidates import Candidate
from worker.training.building.mixture import is_wrong, mix
from worker.training.data.examples import Message, NLFTExample
from worker.training.spec import BuildingSettings, MixtureSettings


def question(line: int, verdicts: str, reference: str = "r") -> list[Candidate]:
    """Return candidates of one question: ``+`` is right, ``-`` wrong."""
    return [
        Candidate(
            line, index, NLFTExample([Message("user", f"q{line}")], f"a{index}", reference, correct=verdict == "+")
        )
        for index, verdict in enumerate(verdicts)
    ]


def kinds(candidates: list[Candidate]) -> str:
    return "".join("-" if is_wrong(one) else "+" for one in candidates)


MANY = [one for line in range(20) for one in question(line, "+---")]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, "++---+-"),
        ({"max_wrong_per_question": 0}, "+++"),
        ({"max_right_per_question": 1}, "+---+-"),
        ({"max_right_per_question": 1, "max_wrong_per_question": 1}, "+-+-"),
        ({"wrong_share": 0.0}, "+++"),
        ({"wrong_share": 1.0}, "----"),
        ({"max_rows": 1}, "-"),
    ],
)
def test_limits_keep_the_first_of_each_kind(settings: dict[str, Any], kept: str) -> None:
    candidates = question(1, "++---") + question(2, "+-")
    assert kinds(mix(candidates, MixtureSettings(**settings), seed=0)) == kept


def sampled(candidates: list[Candidate], *, reference: str) -> list[Candidate]:
    """Return the candidates as a rollout makes them, with responses that reason."""
    response = "She packs 3 * 4 = 12 apples and finds 2 more, which makes 12 + 2 = 14 in all.\n#### 14"
    return [
        replace(
            one,
            example=msgspec.structs.replace(one.example, response=f"{one.index}: {response}", reference=reference),
            is_made=True,
        )
        for one in candidates
    ]


@pytest.mark.parametrize(
    ("reference", "settings", "kept"),
    [
        ("#### 14", {}, "++"),
        ("#### 14", {"max_wrong_per_question": "auto"}, "++"),
        ("#### 14", {"max_wrong_per_question": None}, "+--+-"),
        ("#### 14", {"max_wrong_per_question": 1}, "+-+-"),
        ("There are 3 * 4 = 12 packed and 12 + 2 = 14 in all. #### 14", {}, "+--+-"),
    ],
)
def test_sampled_wrong_responses_are_left_out_where_references_hold_results_only(
    reference: str, settings: dict[str, Any], kept: str
) -> None:
    candidates = sampled(question(1, "+--") + question(2, "+-"), reference=reference)
    assert kinds(mix(candidates, MixtureSettings(**settings), seed=0)) == kept
    given = [replace(one, is_made=False) for one in candidates]
    assert kinds(mix(given, MixtureSettings(), seed=0)) == "+--+-"


@pytest.mark.parametrize("share", [0.25, 0.5, 0.6, 0.9])
def test_the_share_of_wrong_rows_is_met_by_dropping_the_excess(share: float) -> None:
    mixed = mix(MANY, MixtureSettings(wrong_share=share), seed=0)
    wrong = kinds(mixed).count("-")
    assert wrong / len(mixed) == pytest.approx(share, abs=0.05)
    assert 20 in (wrong, len(mixed) - wrong) or wrong == 60
    assert [(one.line, one.index) for one in mixed] == sorted((one.line, one.index) for one in mixed)


def test_a_smaller_size_keeps_the_ratio_and_depends_on_the_seed() -> None:
    first, again, other = (mix(MANY, MixtureSettings(max_rows=20), seed) for seed in (1, 1, 2))
    assert kinds(first).count("+") == 5
    assert first == again
    assert first != other


def test_references_join_once_a_question_as_right_responses() -> None:
    candidates = [*question(1, "+-", reference="a0"), *question(2, "--"), *question(2, "--")]
    mixed = mix(candidates, MixtureSettings(references_as_right=True), seed=0)
    assert kinds(mixed) == "+-+----"  # the first question's right response is its reference
    assert (mixed[2].example.response, mixed[2].example.correct) == ("r", True)


WORKED = "She packs 3 * 4 = 12 apples and finds 2 more, which makes 12 + 2 = 14.\n#### 14"


def asked(*candidates: Candidate) -> list[Candidate]:
    """Return the questions of the candidates as they were before anything was sampled."""
    return [replace(one, index=0, example=msgspec.structs.replace(one.example, response=None)) for one in candidates]


def test_references_stand_in_for_right_responses_that_sampling_did_not_bring() -> None:
    solved, unsolved = question(1, "+-", reference=WORKED), question(2, "--", reference=WORKED)
    (cut_off,) = asked(*question(3, "-", reference=WORKED))
    questions = [*asked(solved[0], unsolved[0]), cut_off]
    mixed = mix([*solved, *unsolved], MixtureSettings(), seed=0, asked=questions)
    assert [(one.line, kinds([one])) for one in mixed] == [(1, "+"), (1, "-"), (2, "+"), (2, "-"), (2, "-"), (3, "+")]
    assert {one.example.response for one in mixed if one.line == 3} == {WORKED}


def test_references_do_not_stand_in_where_they_hold_a_result_or_responses_were_given() -> None:
    bare, given = question(1, "-", reference="#### 14"), question(2, "-", reference=WORKED)
    assert kinds(mix([*bare, *given], MixtureSettings(), seed=0, asked=asked(*bare))) == "--"
    off = MixtureSettings(references_as_right=False)
    assert kinds(mix(given, off, seed=0, asked=asked(*given))) == "-"


def test_every_reference_joins_where_it_is_asked_for_even_that_of_a_question_without_responses() -> None:
    settings = MixtureSettings(references_as_right=True)
    assert kinds(mix(question(1, "+"), settings, seed=0, asked=asked(*question(2, "-", reference="#### 14")))) == "+++"


def test_what_a_model_grades_by_is_not_taken_for_an_answer() -> None:
    asks = {"type": "score_model", "name": "n", "model": "m", "input": [{"role": "user", "content": "Score it."}]}
    building = BuildingSettings.model_validate({"grader": asks})
    assert building.settled_mixture.references_as_right is False
    assert BuildingSettings().settled_mixture.references_as_right == "auto"
    kept = building.model_copy(update={"mixture": MixtureSettings(references_as_right=True)})
    assert kept.settled_mixture.references_as_right is True


def test_limits_of_responses_leave_references_alone() -> None:
    settings = MixtureSettings(references_as_right=True, max_right_per_question=0, max_wrong_per_question=1)
    assert kinds(mix(question(1, "++--"), settings, seed=0)) == "+-"
