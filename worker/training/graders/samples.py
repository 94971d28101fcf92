"""What a grader sees, and what it says."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from worker.training.data.examples import NLFTExample
from worker.training.syntax.templates import TemplateError

GradeErrorKind = Literal[
    "formula_parse_error",
    "sample_parse_error",
    "invalid_variable_error",
    "other_error",
    "model_grader_parse_error",
    "model_grader_server_error",
]


@dataclass(frozen=True, slots=True)
class Sample:
    """A response with the row it answers.

    Attributes:
        text: What the model wrote (``sample.output_text``).
        item: The row (``item``).
        tool_calls: What the model called (``sample.output_tools``), in the shape of a chat message.
    """

    text: str
    item: Mapping[str, Any] = field(default_factory=dict)
    tool_calls: Sequence[Mapping[str, Any]] = ()

    def values(self) -> dict[str, Any]:
        """Return what templates look names up in; ``sample.output_json`` is there where the text is JSON."""
        seen: dict[str, Any] = {"output_text": self.text, "output_tools": list(self.tool_calls)}
        with suppress(ValueError, RecursionError):
            seen["output_json"] = json.loads(self.text)
        return {"item": self.item, "sample": seen}


@dataclass(frozen=True, slots=True)
class GradeError:
    """Why a response has no score: ``kind`` as OpenAI names it, and a sentence."""

    kind: GradeErrorKind
    message: str


@dataclass(frozen=True, slots=True)
class Grade:
    """What a grader says of a response.

    Attributes:
        score: 0 where there is an error.
        scores: Scores of the parts of a ``multi`` grader, by their keys.
        errors: Empty when ``score`` can be trusted.
        tokens: What was paid for it, by scoring model.
    """

    score: float
    scores: Mapping[str, float] = field(default_factory=dict)
    errors: tuple[GradeError, ...] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)


def failed(kind: GradeErrorKind, message: str, tokens: Mapping[str, int] | None = None) -> Grade:
    """Return the grade of a response that could not be scored."""
    return Grade(0.0, errors=(GradeError(kind, message),), tokens=tokens or {})


def kind_of(error: TemplateError) -> GradeErrorKind:
    """Return how OpenAI calls a name that is missing: in the row, or in a response that should have been JSON."""
    return "sample_parse_error" if "sample.output_json" in str(error) else "invalid_variable_error"


def sample_of(row: NLFTExample, response: str, tool_calls: Sequence[Mapping[str, Any]] = ()) -> Sample:
    """Return ``response`` to ``row`` as graders see it; its item has the names in ``syntax.templates.ROW_FIELDS``."""
    asked = [message.text for message in row.prompt if message.role == "user"]
    messages = [
        {name: value for name, value in msgspec.to_builtins(message).items() if value is not None}
        for message in row.prompt
    ]
    item = {
        "messages": messages,
        "question": asked[-1] if asked else "",
        "reference": row.reference,
        "judgment": row.judgment,
        "tools": row.tools,
    }
    return Sample(response, item, tool_calls)
