"""Writes judgments on wrong responses from a template. Compares values, not strings: 2 * 5 is no wrong 5 * 2."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from worker.training.graders import find_number, is_correct
from worker.training.spec import FinalAnswerGrader

GRADER = FinalAnswerGrader()

_STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One equation of a solution: its ``text``, what its left side comes to, and what it ``claims``."""

    text: str
    value: Fraction | None
    claims: Fraction


def judge(response: str, reference: str) -> str | None:
    """Return what is wrong with ``response``; None when it reaches the result of ``reference``."""
    if is_correct(response, reference, GRADER):
        return None
    right, concluded = find_number(reference, GRADER.marker), find_number(response, GRADER.marker)
    conclusion = "reaches no result" if concluded is None else f"concludes {concluded}"
    return f"The answer {conclusion}, but the right result is {right}. {_first_wrong_step(response, reference)}"


def _first_wrong_step(response: str, reference: str) -> str:
    given, wanted = list(_steps(response)), list(_steps(reference))
    for index, step in enumerate(given):
        if step.value != step.claims:
            value = "has no value" if step.value is None else f"comes to {step.value}"
            return f"The first wrong step is {step.text}; the left side {value}."
        if index < len(wanted) and step.value != wanted[index].value:
            return f"The first wrong step is {step.text}; it should be {wanted[index].text}."
    if len(given) < len(wanted):
        return f"The step {wanted[len(given)].text} is missing."
    return "The steps are right, but the conclusion does not follow from them."


def _steps(text: str) -> Iterator[Step]:
    for left, operator, right, result in _STEP.findall(text):
        yield Step(f"{left} {operator} {right} = {result}", _value(int(left), operator, int(right)), Fraction(result))


def _value(left: int, operator: str, right: int) -> Fraction | None:
    if operator == "/":
        return Fraction(left, right) if right else None
    return Fraction({"+": left + right, "-": left - right, "*": left * right}[operator])
