"""How an arm's training rows are made of judged rollouts. Each builder is a line in ``BUILDERS``."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.quality.setting import bare_result, messages
from worker.training.building.rationalization import reaches_result
from worker.training.spec import FinalAnswerGrader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.quality.rollouts import Rollout

Row = dict[str, Any]


def rollouts(judged: Sequence[Rollout]) -> list[Row]:
    """Every rollout as it came, with its judgment."""
    return [_row(one, one.response, one.judgment) for one in _own(judged)]


def right_rollouts(judged: Sequence[Rollout]) -> list[Row]:
    """Right rollouts only: rejection sampling."""
    return rollouts([one for one in judged if one.judgment is None])


def balanced_rollouts(judged: Sequence[Rollout]) -> list[Row]:
    """Every right rollout, and as many wrong ones, of as many questions as possible."""
    right = [one for one in _own(judged) if one.judgment is None]
    wrong = [one for one in _own(judged) if one.judgment is not None]
    return rollouts([*right, *wrong[: len(right)]])


def rationalized(judged: Sequence[Rollout]) -> list[Row]:
    """Every rollout, and for questions without a right one those drawn with guidance shown that are sound."""
    return [*rollouts(judged), *_rationalizations(judged)]


def right_rationalized(judged: Sequence[Rollout]) -> list[Row]:
    """Right rollouts, and for questions without one those drawn with guidance shown (STaR)."""
    return [*right_rollouts(judged), *_rationalizations(judged)]


def references(judged: Sequence[Rollout]) -> list[Row]:
    """The worked solutions, one for each question."""
    return [_row(one, one.problem.solution, None) for one in _by_question(judged)]


def references_and_wrong(judged: Sequence[Rollout]) -> list[Row]:
    """The worked solutions, and wrong rollouts with their judgments."""
    return [*references(judged), *rollouts([one for one in judged if one.judgment is not None])]


def right_or_references(judged: Sequence[Rollout]) -> list[Row]:
    """Right rollouts, and for questions without one the worked solution."""
    right = right_rollouts(judged)
    solved = {one.problem.question for one in _own(judged) if one.judgment is None}
    return [*right, *references([one for one in judged if one.problem.question not in solved])]


def references_and_rationalized(judged: Sequence[Rollout]) -> list[Row]:
    """The worked solutions, and beside them what the model wrote itself: right rollouts, or with guidance shown."""
    known = references(judged)
    said = {row["response"] for row in known}
    return [*known, *(row for row in right_rationalized(judged) if row["response"] not in said)]


def rollouts_without_judgments(judged: Sequence[Rollout]) -> list[Row]:
    """Every rollout, marked right or wrong, nothing said about why."""
    return [{**_row(one, one.response, None), "correct": one.judgment is None} for one in _own(judged)]


def rollouts_final_answer(judged: Sequence[Rollout]) -> list[Row]:
    """Every rollout; reference and judgment know the result only."""
    return [_final_answer(row) for row in rollouts(judged)]


def right_rollouts_final_answer(judged: Sequence[Rollout]) -> list[Row]:
    """Right rollouts only; the reference knows the result only."""
    return [_final_answer(row) for row in right_rollouts(judged)]


def rationalized_final_answer(judged: Sequence[Rollout]) -> list[Row]:
    """As ``rationalized``; reference and judgment know the result only."""
    return [_final_answer(row) for row in rationalized(judged)]


def right_rationalized_final_answer(judged: Sequence[Rollout]) -> list[Row]:
    """As ``right_rationalized``; the reference knows the result only."""
    return [_final_answer(row) for row in right_rationalized(judged)]


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
            rationalized,
            right_rationalized,
            references,
            references_and_wrong,
            right_or_references,
            references_and_rationalized,
            rollouts_without_judgments,
            rollouts_final_answer,
            right_rollouts_final_answer,
            rationalized_final_answer,
            right_rationalized_final_answer,
            rollouts_final_answer_without_judgments,
        )
    }
)


def _row(one: Rollout, response: str, judgment: str | None) -> Row:
    row = {"messages": messages(one.problem.question), "response": response, "reference": one.problem.solution}
    if judgment is None:
        return row
    return row | ({"judgment": judgment} if judgment else {"correct": False})


def _final_answer(row: Row) -> Row:
    """Return ``row`` with no steps in its reference, and of its judgment the first sentence: X, but it is Y."""
    short = row | {"reference": bare_result(row["reference"])}
    if "judgment" in row:
        short["judgment"] = row["judgment"].partition(". ")[0].rstrip(".") + "."
    return short


def _own(judged: Sequence[Rollout]) -> list[Rollout]:
    """Return what the model wrote with nothing shown, as far as it wrote anything."""
    return [one for one in judged if one.shown == "nothing" and one.response]


def _rationalizations(judged: Sequence[Rollout]) -> list[Row]:
    solved = {one.problem.question for one in _own(judged) if one.judgment is None}
    guided = (one for one in judged if one.shown != "nothing" and one.problem.question not in solved)
    right = (one for one in guided if one.judgment is None and reaches_result(one.response, FinalAnswerGrader()))
    return [_row(one, one.response, None) for one in right]


def _by_question(judged: Sequence[Rollout]) -> list[Rollout]:
    return list({one.problem.question: one for one in judged}.values())
