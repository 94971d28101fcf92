"""The base model's own answers to the training questions, plain and with guidance shown, judged; drawn once and kept.

Drawn in blocks of 50 questions, one rollout each, every block with a generator of its own: what an arm trains on does
not depend on which arms ran before it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from bench.quality.answering import load_for_answers, sample
from bench.quality.setting import bare_result, write_file
from bench.quality.warm_up import shown_reference
from examples.word_problems.generate import judge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.quality.setting import Setting
    from examples.word_problems.families import Problem
    from worker.training.spec import BaseModelRef

TEMPERATURE = 0.7
BLOCK = 50
Shown = Literal["nothing", "reference", "result"]
"""What stands beside the question when an answer is drawn: nothing, the worked solution, or its bare result."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """An answer of the base model; ``judgment`` None: it is right. ``shown`` is what stood beside the question."""

    problem: Problem
    response: str
    judgment: str | None
    shown: Shown = "nothing"


def draw_rollouts(
    setting: Setting,
    base: BaseModelRef,
    problems: Sequence[Problem],
    seed: int,
    *,
    per_question: int,
    shown: Shown = "nothing",
) -> list[Rollout]:
    """Return ``per_question`` rollouts of each problem, the first ones of all problems first."""
    folder = setting.work / "rollouts" / base.digest[:12]
    load = cache(lambda: load_for_answers(base, setting))  # once, and only where something is left to draw
    found: list[Rollout] = []
    for index in range(per_question):
        for start in range(0, len(problems), BLOCK):
            block = problems[start : start + BLOCK]
            place = _Place(seed, start, index, shown)
            responses = _read(folder / place.file_name, block)
            if responses is None:
                asked = [place.asks(problem) for problem in block]
                responses = sample(load(), setting, asked, temperature=TEMPERATURE, seed=place.generator_seed)
                _write(folder / place.file_name, block, responses)
            found += [
                Rollout(problem, response, judge(response, problem.solution), shown)
                for problem, response in zip(block, responses, strict=False)
            ]
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """Which block of rollouts: data seed, first question, number of the rollout, what was shown."""

    seed: int
    start: int
    index: int
    shown: Shown

    @property
    def file_name(self) -> str:
        """Return what the block is kept as."""
        return f"seed-{self.seed}-questions-{self.start:03d}-rollout-{self.index}{self._suffix}.json"

    @property
    def generator_seed(self) -> int:
        """Return the seed of the draws."""
        return (self.seed * 1000 + self.start) * 1000 + self.index

    def asks(self, problem: Problem) -> str:
        """Return the user's turn that is answered."""
        if self.shown == "nothing":
            return problem.question
        solution = problem.solution
        return shown_reference(problem.question, solution if self.shown == "reference" else bare_result(solution))

    @property
    def _suffix(self) -> str:
        return "" if self.shown == "nothing" else f"-{self.shown}-shown"


def _read(file: Path, problems: Sequence[Problem]) -> list[str] | None:
    """Return the kept responses to ``problems``; None where the file holds others or is not there."""
    if not file.is_file():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    if [row["question"] for row in kept][: len(problems)] != [problem.question for problem in problems]:
        return None
    return [row["response"] for row in kept]


def _write(file: Path, problems: Sequence[Problem], responses: Sequence[str]) -> None:
    rows = [
        {"question": problem.question, "response": response}
        for problem, response in zip(problems, responses, strict=True)
    ]
    write_file(file, json.dumps(rows, indent=1, ensure_ascii=False))
