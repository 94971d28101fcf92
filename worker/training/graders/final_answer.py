"""Decides whether a response reaches the same final answer as the reference, by value rather than by spelling."""

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from worker.training.graders.numerals import Number, find_numbers, has_other_than_number, write_plainly
from worker.training.spec import FinalAnswerGrader
from worker.training.syntax.patterns import last_match

_READ = 20_000
_BRACE = re.compile(r"\\boxed\{|(?<!\\)[{}]")


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer: its ``text``, and its ``number`` where it is one."""

    text: str
    number: Number | None

    def equals(self, other: "Answer") -> bool:
        """Return whether both say the same: numbers by value, else texts but for case, white space and punctuation."""
        if self.number is not None and other.number is not None:
            return self.number.equals(other.number)
        text = _normalized(self.text)
        return bool(text) and text == _normalized(other.text)


def is_correct(response: str, reference: str, grader: FinalAnswerGrader) -> bool:
    """Return whether the final answers agree.

    Numbers are compared by value: ``1,000``, ``$1000.00`` and ``2000/2`` are the same; units are dropped, and 50%
    is both 50 and 0.5. Where either side is no number, the texts are compared, ignoring case, white space and outer
    punctuation. A reference without box or match of the pattern is read like one with extract ``marker``.
    """
    given = find_answer(response, grader)
    wanted = find_answer(reference, grader) or _behind_marker(reference[-_READ:], grader.marker)
    return given is not None and given.equals(wanted)


def find_answer(text: str, grader: FinalAnswerGrader) -> Answer | None:
    """Return the final answer of ``text`` as ``grader.extract`` finds it; None where there is none.

    Only the last 20,000 characters are read: a final answer stands at the end.
    """
    text = text[-_READ:]
    match grader.extract:
        case "marker":
            return _behind_marker(text, grader.marker)
        case "last_number":
            number = _last_number(text)
            return None if number is None else Answer("", number)
        case "boxed":
            content = _boxed(text)
        case "pattern":
            content = last_match(grader.pattern or "", text)
    return None if content is None else _whole(content)


def find_number(text: str, marker: str) -> Fraction | None:
    """Return the first number behind the last ``marker``, or without a marker the last number; None without any."""
    number = _behind_marker(text[-_READ:], marker).number
    return None if number is None else number.value


def _behind_marker(text: str, marker: str) -> Answer:
    if not marker or marker not in text:
        return Answer(text, _last_number(text))
    behind = text.rpartition(marker)[2]
    return Answer(behind, next(find_numbers(behind), None))


def _last_number(text: str) -> Number | None:
    return next(iter(deque(find_numbers(text), maxlen=1)), None)


def _whole(content: str) -> Answer:
    """Return all of ``content`` as an answer: a number where it is one with its unit, and no formula."""
    return Answer(content, None if has_other_than_number(content) else next(find_numbers(content), None))


def _boxed(text: str) -> str | None:
    r"""Return what stands in the last ``\boxed{}`` whose braces match."""
    opened: list[int | None] = []  # where the content of a box begins; None for any other brace
    content = None
    for brace in _BRACE.finditer(text):
        if brace.group() != "}":
            opened.append(brace.end() if brace.group() == "\\boxed{" else None)
        elif opened and (start := opened.pop()) is not None:
            content = text[start : brace.start()]
    return content


def _normalized(text: str) -> str:
    return " ".join(write_plainly(text).casefold().split()).strip(" .,!?\"'()*`$")
