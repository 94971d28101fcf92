"""Decides whether a response reaches the same final answer as the reference, by value rather than by spelling."""

import re
from fractions import Fraction

from worker.training.spec import FinalAnswerGrader

_LONGEST_NUMBER = 300  # longer ones are no answers, and Python refuses to convert them
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    # A sign counts unless it stands between two operands, where it is an operator.
    r"(?P<sign>(?<![\w)%.])[-+\u2212])?(?:[$€£¥]\s?)?(?P<sign_inside>(?<=[$€£¥])[-\u2212])?"
    rf"(?P<number>{_DIGITS})(?:\s?/\s?(?P<below>{_DIGITS}))?"
)


def is_correct(response: str, reference: str, grader: FinalAnswerGrader) -> bool:
    """Return whether the final answers agree.

    Numbers are compared by value: ``1,000``, ``$1000.00`` and ``2000/2`` are the same; percent signs and units are
    dropped. Where either text holds no number, the texts behind the marker are compared, ignoring case and white space.
    """
    given, wanted = find_number(response, grader.marker), find_number(reference, grader.marker)
    if given is not None and wanted is not None:
        return given == wanted
    text = _normalized(_after_marker(response, grader.marker))
    return bool(text) and text == _normalized(_after_marker(reference, grader.marker))


def find_number(text: str, marker: str) -> Fraction | None:
    """Return the first number behind the last ``marker``, or without a marker the last number; None without any."""
    if marker and marker in text:
        found = _NUMBER.search(text.rpartition(marker)[2])
        return None if found is None else _value(found)
    values = [value for found in _NUMBER.finditer(text) if (value := _value(found)) is not None]
    return values[-1] if values else None


def _value(found: re.Match[str]) -> Fraction | None:
    """Return the exact value of a matched number; None when it is too long or a fraction over zero."""
    if len(found.group()) > _LONGEST_NUMBER:
        return None
    above, below = (_exact(found[name]) for name in ("number", "below"))
    if above is None or below == 0:
        return None
    value = above if below is None else above / below
    sign = (found["sign"] or "") + (found["sign_inside"] or "")
    return -value if "-" in sign or "\u2212" in sign else value


def _exact(digits: str | None) -> Fraction | None:
    return None if digits is None else Fraction(digits.replace(",", ""))


def _after_marker(text: str, marker: str) -> str:
    return text.rpartition(marker)[2] if marker else text


def _normalized(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!?\"'")
