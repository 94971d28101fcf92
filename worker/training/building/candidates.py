"""Rows on their way through the stages. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from worker.training.building.keys import text_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.training.building.parts import GradeRecord, Rollout
    from worker.training.data.examples import NLFTExample

REFERENCE_INDEX = -1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row with a response.

    Attributes:
        line: Its question's line in the training file.
        index: Which response to it; ``REFERENCE_INDEX`` for the reference taken as one.
        example: The row so far.
        is_made: A stage wrote or chose its response or judgment, so it may be dropped where its text turns out unfit.
        is_whole: The response is neither empty nor cut off.
    """

    line: int
    index: int
    example: NLFTExample
    is_made: bool = False
    is_whole: bool = True

    @property
    def digest(self) -> str:
        """What verdicts on the response are told by."""
        return text_digest(self.example.reference, self.example.answer_text)

    @property
    def question(self) -> str:
        """A digest of what is asked, equal for all responses to a question wherever their rows stand."""
        asked = msgspec.json.encode((self.example.prompt, self.example.tools, self.example.reference))
        return text_digest(asked.decode())

    @property
    def place(self) -> tuple[int, int]:
        """Line and index."""
        return self.line, self.index

    def answered(self, rollout: Rollout) -> Candidate:
        """Return this row with a response that was sampled for it."""
        return replace(
            self,
            index=rollout.index,
            example=msgspec.structs.replace(self.example, response=rollout.response),
            is_made=True,
            is_whole=rollout.finished and bool(rollout.response),
        )

    def graded(self, grade: GradeRecord | None, threshold: float) -> Candidate:
        """Return this row with ``correct`` filled in, unless its response got no grade."""
        if grade is None or grade.error is not None:
            return self
        return replace(self, example=msgspec.structs.replace(self.example, correct=grade.score >= threshold))

    def judged(self, judgment: str | None) -> Candidate:
        """Return this row with a judgment that was written on it, if one was."""
        if judgment is None:
            return self
        return replace(self, example=msgspec.structs.replace(self.example, judgment=judgment), is_made=True)


def without_duplicates(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates without sampled responses that an earlier one to the same question equals."""
    seen: set[tuple[str, str | None]] = set()
    kept = []
    for one in candidates:
        key = (one.question, one.example.answer_text)
        if not (one.is_made and key in seen):
            kept.append(one)
        seen.add(key)
    return kept
