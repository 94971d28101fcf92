"""The study on word problems with small numbers, whose base model is the warmed-up one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.quality.arms import ARMS
from bench.quality.comparisons import TABLES, VALIDATION_SEEDS
from bench.quality.problems import exam_problems, training_problems, validation_problems
from bench.quality.setting import WORD_PROBLEMS
from bench.quality.study import Study
from bench.quality.warm_up import WarmUp, target_problems

if TYPE_CHECKING:
    from examples.word_problems.families import Problem


def questions(seed: int) -> list[Problem]:
    """Return the training problems of data seed ``seed``."""
    return training_problems(seed, target_problems(WarmUp()))


def measured_on(seed: int) -> list[Problem]:
    """Return the problems that results of data seed ``seed`` are measured on."""
    return validation_problems() if seed in VALIDATION_SEEDS else exam_problems()


STUDY = Study(WORD_PROBLEMS, ARMS, TABLES, questions, measured_on)
