"""Writes judgments on wrong responses without a model. Compares values, not strings: 2 * 5 is no wrong 5 * 2."""

from fractions import Fraction

from worker.training.building.equations import Equation, find_equations
from worker.training.graders import find_answer
from worker.training.spec import FinalAnswerGrader

_LONGEST_QUOTE = 200


def judge_by_template(response: str, reference: str, grader: FinalAnswerGrader) -> str:
    """Return what is wrong with ``response``; nothing where neither results nor steps tell.

    Says what the response concludes, what the reference does, and at which calculation their values part.
    """
    concluded, right = _conclusion(response, grader), _conclusion(reference, grader) or _short(reference)
    sentences = []
    if right and concluded != right:
        conclusion = f"concludes {concluded}" if concluded else "reaches no result"
        sentences.append(f"The answer {conclusion}, but the right result is {right}.")
    step = _first_wrong_step(list(find_equations(response)), list(find_equations(reference)))
    return " ".join([*sentences, *([step] if step else [])])


def _conclusion(text: str, grader: FinalAnswerGrader) -> str:
    """Return the final answer as it may be quoted; nothing where there is none."""
    answer = find_answer(text, grader)
    if answer is None:
        return ""
    if answer.number is not None:
        return spell(answer.number.value) + ("%" if answer.number.is_percent else "")
    return "" if answer.text == text else _short(answer.text)


def _short(text: str) -> str:
    quoted = " ".join(text.split()).strip(" .")
    return quoted if len(quoted) <= _LONGEST_QUOTE else ""


def _first_wrong_step(given: list[Equation], wanted: list[Equation]) -> str:
    left = list(wanted)
    values = [step.value for step in wanted]
    for step in given:
        if not step.holds:
            value = "has no value" if step.value is None else f"comes to {spell(step.value)}"
            return f"The first wrong step is {step.text}; the left side {value}."
        match = next((other for other in left if other.value == step.value), None)
        if match is not None:
            left.remove(match)
        elif values and step.value not in values:
            instead = f"; it should be {left[0].text}" if left else ""
            return f"The first wrong step is {step.text}{instead}."
    if left and given:
        return f"The step {left[0].text} is missing."
    return "The steps are right, but the conclusion does not follow from them." if given and wanted else ""


def spell(value: Fraction) -> str:
    """Return ``value`` as people write it: an integer, decimals where they end, else two of them."""
    if value.denominator == 1:
        return str(value.numerator)
    exact = f"{float(value):.6f}".rstrip("0")
    return exact if Fraction(exact) == value else f"{float(value):.2f}"
