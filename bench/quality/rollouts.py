"""The base model's own answers to the training questions, judged; drawn once and kept.

Drawn in blocks of 50 questions, one rollout each, every block with a generator of its own: what an arm trains on does
not depend on which arms ran before it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.quality.answering import load_for_answers, sample
from bench.quality.setting import WORK, write_file
from examples.word_problems.generate import judge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from examples.word_problems.families import Problem
    from worker.training.spec import BaseModelRef

TEMPERATURE = 0.7
BLOCK = 50


@dataclass(frozen=True, slots=True)
class Rollout:
    """An answer of the base model; ``judgment`` None: it is right."""

    problem: Problem
    response: str
    judgment: str | None


def draw_rollouts(base: BaseModelRef, problems: Sequence[Problem], seed: int, *, per_question: int) -> list[Rollout]:
    """Return ``per_question`` rollouts of each problem, the first ones of all problems first."""
    found: list[Rollout] = []
    for index in range(per_question):
        for start in range(0, len(problems), BLOCK):
            block = problems[start : start + BLOCK]
            responses = _block(base, block, _Place(seed, start, index))
            found += [
                Rollout(problem, response, judge(response, problem.solution))
                for problem, response in zip(block, responses, strict=False)
            ]
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """Which block of rollouts: data seed, first question, number of the rollout."""

    seed: int
    start: int
    index: int

    def file(self, base: BaseModelRef) -> Path:
        """Return where the block is kept."""
        name = f"seed-{self.seed}-questions-{self.start:03d}-rollout-{self.index}.json"
        return WORK / "rollouts" / base.digest[:12] / name

    @property
    def generator_seed(self) -> int:
        """Return the seed of the draws."""
        return (self.seed * 1000 + self.start) * 1000 + self.index


def _block(base: BaseModelRef, problems: Sequence[Problem], place: _Place) -> list[str]:
    """Return one response to each of a whole block's problems."""
    file = place.file(base)
    questions = [problem.question for problem in problems]
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if [row["question"] for row in kept][: len(questions)] == questions:
            return [row["response"] for row in kept]
    loaded = load_for_answers(base)
    responses = sample(loaded, questions, temperature=TEMPERATURE, seed=place.generator_seed)
    rows = [{"question": q, "response": r} for q, r in zip(questions, responses, strict=True)]
    write_file(file, json.dumps(rows, indent=1, ensure_ascii=False))
    return responses
