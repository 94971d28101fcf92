"""Tells texts that show a way from those that hold its result only. Free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.training.data.examples import Message, NLFTExample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.training.data.examples import Example

# A result stands in a few words; a response that reasons towards it takes several times as many.
_WORDS_OF_A_RESULT = 4
_WORDS_OF_REASONING = 12
_NEARLY_ALL = 0.9


def reasons(text: str | None) -> bool:
    """Return whether a text is long enough to say how its result comes about."""
    return _count_words(text) >= _WORDS_OF_REASONING


def lacks_steps(example: Example) -> bool:
    """Return whether the response of a row reasons and its reference cannot say which step is right."""
    return (
        isinstance(example, NLFTExample)
        and example.reference is not None
        and reasons(example.answer.text if isinstance(example.answer, Message) else example.answer)
        and _count_words(example.reference) <= _WORDS_OF_A_RESULT
    )


def mostly_lack_steps(examples: Sequence[Example]) -> bool:
    """Return whether that is so of nearly all rows."""
    return sum(map(lacks_steps, examples)) > _NEARLY_ALL * len(examples)


def _count_words(text: str | None) -> int:
    return len((text or "").split())
