"""Grades responses that do not say whether they are right."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from worker.training.building.parts import GradeRecord
from worker.training.building.stages import split
from worker.training.data.examples import Message
from worker.training.errors import StageError
from worker.training.graders import Sample, grade_all, sample_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.training.building.candidates import Candidate
    from worker.training.building.stages import OnDone, Part
    from worker.training.completions import Completions
    from worker.training.data.examples import NLFTExample
    from worker.training.spec import Grader

PART_RESPONSES = 256


def plan_grading(candidates: Sequence[Candidate], grader: Grader, completions: Completions) -> list[Part[GradeRecord]]:
    """Return the parts of the grading of ``candidates``, in their order."""
    return split(candidates, PART_RESPONSES, partial(_grade, grader=grader, completions=completions))


def _grade(
    candidates: Sequence[Candidate], on_done: OnDone, *, grader: Grader, completions: Completions
) -> list[GradeRecord]:
    """Return one record per candidate.

    Raises:
        StageError: Nothing could be graded: what fails for a whole part will fail for the next one, and may cost.
    """

    def tell(done: int, total: int) -> None:
        on_done(len(candidates) * done // max(1, total))

    grades = grade_all(grader, [sample_response(candidate.example) for candidate in candidates], completions, tell)
    records = [
        GradeRecord(candidate.line, candidate.index, candidate.digest, grade.score, _reason(grade.errors))
        for candidate, grade in zip(candidates, grades, strict=True)
    ]
    if records and all(record.error for record in records):
        raise StageError(
            "grading_failed",
            f"the grader could score none of {len(records)} responses; the first said: {records[0].error}",
            "grader",
        )
    return records


def sample_response(example: NLFTExample) -> Sample:
    """Return the response of a row as graders see it."""
    answer = example.answer
    row = msgspec.structs.replace(example, messages=example.prompt)
    if not isinstance(answer, Message):
        return sample_of(row, answer or "")
    # Whoever compares texts sees the calls of a turn that is nothing else.
    return sample_of(row, answer.text or example.answer_text or "", msgspec.to_builtins(answer.tool_calls or []))


def _reason(errors: Sequence[object]) -> str | None:
    messages = [str(getattr(error, "message", error)) for error in errors]
    return messages[0] if messages else None
