"""How an arm's training rows are made of judged rollouts. Each builder is a line in ``BUILDERS``."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.quality.setting import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.quality.rollouts import Rollout

Row = dict[str, Any]

_RESULT = re.compile(r"#### .+")


def rollouts(judged: Sequence[Rollout]) -> list[Row]:
    """Every rollout as it came, with its judgment."""
    return [_row(one, one.response, one.judgment) for one in judged]


def right_rollouts(judged: Sequence[Rollout]) -> list[Row]:
    """Right rollouts only: rejection sampling."""
    return rollouts([one for one in judged if one.judgment is None])


def balanced_rollouts(judged: Sequence[Rollout]) -> list[Row]:
    """Every right rollout, and as many wrong ones, of as many questions as possible."""
    right = [one for one in judged if one.judgment is None]
    wrong = [one for one in judged if one.judgment is not None]
    return rollouts([*right, *wrong[: len(right)]])


def references(judged: Sequence[Rollout]) -> list[Row]:
    """The worked solutions, one for each question."""
    return [_row(one, one.problem.solution, None) for one in _by_question(judged)]


def references_and_wrong(judged: Sequence[Rollout]) -> list[Row]:
    """The worked solutions, and wrong rollouts with their judgments."""
    return [*references(judged), *rollouts([one for one in judged if one.judgment is not None])]


def rollouts_without_judgments(judged: Sequence[Rollout]) -> list[Row]:
    """Every rollout, marked right or wrong, nothing said about why."""
    return [{**_row(one, one.response, None), "correct": one.judgment is None} for one in judged]


def rollouts_final_answer(judged: Sequence[Rollout]) -> list[Row]:
    """Every rollout; reference and judgment know the result only."""
    return [_final_answer(row) for row in rollouts(judged)]


def rollouts_final_answer_without_judgments(judged: Sequence[Rollout]) -> list[Row]:
    """Every rollout, marked right or wrong; the reference knows the result only."""
    return [_final_answer(row) for row in rollouts_without_judgments(judged)]


BUILDERS: Mapping[str, Callable[[Sequence[Rollout]], list[Row]]] = MappingProxyType(
    {
        builder.__name__: builder
        for builder in (
            rollouts,
            right_rollouts,
            balanced_rollouts,
            references,
            references_and_wrong,
            rollouts_without_judgments,
            rollouts_final_answer,
            rollouts_final_answer_without_judgments,
        )
    }
)


def _row(one: Rollout, response: str, judgment: str | None) -> Row:
    row = {"messages": messages(one.problem.question), "response": response, "reference": one.problem.solution}
    return row if judgment is None else row | {"judgment": judgment}


def _final_answer(row: Row) -> Row:
    """Return ``row`` with no steps in its reference, and of its judgment the first sentence: X, but it is Y."""
    found = _RESULT.search(row["reference"])
    short = row | {"reference": found.group() if found else row["reference"]}
    if "judgment" in row:
        short["judgment"] = row["judgment"].partition(". ")[0].rstrip(".") + "."
    return short


def _by_question(judged: Sequence[Rollout]) -> list[Rollout]:
    return list({one.problem.question: one for one in judged}.values())
