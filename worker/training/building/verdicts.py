"""Whether a judgment is of use: the paper drops those that are empty or find nothing wrong. Free of torch."""

import re
from typing import Literal

Fault = Literal["empty", "says_correct", "nothing_usable"]

_FEWEST_WORDS = 3
_PRAISE = re.compile(
    r"^\W*(?:yes\b|correct\b|that(?:'s| is) (?:correct|right)\b)"
    r"|\b(?:answer|response|solution|result|conclusion|it|this|everything|reasoning|calculation)s?\s+"
    r"(?:is|are|was|were|looks?|seems?)\s+(?:\w+ly\s+|also\s+|all\s+)?(?:correct|right|accurate|perfect|fine)\b"
    r"|\b(?:no|without|not (?:contain|have|find|see) any)\s+(?:\w+\s+)?"
    r"(?:mistakes?|errors?|weakness(?:es)?|problems?)\b"
    r"|\bnothing (?:is )?wrong\b",
    re.IGNORECASE,
)
_CRITICISM = re.compile(
    r"\b(?:but|however|except|although|instead|should|incorrect\w*|wrong\w*|not (?:the )?(?:correct|right)|mistaken\w*"
    r"|forg[eo]t\w*|miss(?:es|ed|ing)?|fails?|failed)\b|\b(?<!no )(?<!any )(?:mistakes?|errors?) (?:is|was|in|at|of)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]{4,}")
_EMPTY_WORDS = frozenset(
    ("answer", "response", "question", "student", "standard", "wrong", "correct", "right", "mistake", "error")
)


def find_fault(judgment: str, *, question: str, response: str, reference: str) -> Fault | None:
    """Return why ``judgment`` is dropped; None for one that is of use.

    Args:
        judgment: What a judge wrote.
        question: What was asked.
        response: What it judges.
        reference: The standard answer. A judgment is of use when it names something of these three.
    """
    words = judgment.split()
    if not words:
        return "empty"
    if _PRAISE.search(judgment) and not _CRITICISM.search(judgment):
        return "says_correct"
    is_copy = " ".join(words) in " ".join(response.split()) or " ".join(words) == " ".join(question.split())
    named = _names(judgment) & (_names(question) | _names(response) | _names(reference))
    return "nothing_usable" if is_copy or len(words) < _FEWEST_WORDS or not named else None


def _names(text: str) -> set[str]:
    """Return the numbers and the longer words of ``text`` that are about its matter."""
    return {word.casefold().rstrip(".,") for word in _WORD.findall(text)} - _EMPTY_WORDS
