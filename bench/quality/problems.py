"""Which problems are trained, validated and tested on. Numbers of one split never occur in a held-out one.

The raw model is warmed up on source families; what is measured are target families. A family has few number
combinations (sharing 105, together 135, change 180, boxes 256), so every split mixes them in these proportions.
"""

import re
from collections.abc import Collection, Mapping
from random import Random
from types import MappingProxyType

from examples.word_problems.families import FAMILIES, Problem

SOURCE: Mapping[str, int] = MappingProxyType({"packs": 1, "wages": 1, "seats": 1, "saving": 1})
TARGET: Mapping[str, int] = MappingProxyType({"boxes": 8, "change": 5, "together": 4, "sharing": 3})

EXAM_SEED, EXAM_PROBLEMS = 101, 300
VALIDATION_SEED, VALIDATION_PROBLEMS = 102, 96
WARM_UP_SEED = 103
TRAINING_SEED, MOST_QUESTIONS = 1000, 200

_MOST_DRAWS = 200_000


def draw(seed: int, count: int, mix: Mapping[str, int], *, avoid: Collection[Problem] = ()) -> list[Problem]:
    """Return ``count`` problems whose families follow ``mix`` in every prefix; numbers differ, also from ``avoid``'s.

    Raises:
        ValueError: A family has no combination of numbers left.
    """
    rng = Random(seed)
    taken = {_numbers(problem) for problem in avoid}
    problems: list[Problem] = []
    for family in _spread(mix, count):
        for _ in range(_MOST_DRAWS):
            problem = Problem(family, *FAMILIES[family](rng))
            if _numbers(problem) not in taken:
                break
        else:
            message = f"family {family} has no numbers left"
            raise ValueError(message)
        taken.add(_numbers(problem))
        problems.append(problem)
    return problems


def exam_problems() -> list[Problem]:
    """Return the problems that every accuracy is measured on."""
    return draw(EXAM_SEED, EXAM_PROBLEMS, TARGET)


def validation_problems() -> list[Problem]:
    """Return the problems that the warm start was tuned on."""
    return draw(VALIDATION_SEED, VALIDATION_PROBLEMS, TARGET, avoid=exam_problems())


def warm_up_problems(count: int, mix: Mapping[str, int]) -> list[Problem]:
    """Return problems for the warm start."""
    return draw(WARM_UP_SEED, count, mix, avoid=[*exam_problems(), *validation_problems()])


def training_problems(seed: int, warm_up: Collection[Problem]) -> list[Problem]:
    """Return the questions of data seed ``seed``; fewer questions are the first of these."""
    held_out = [*exam_problems(), *validation_problems(), *warm_up]
    return draw(TRAINING_SEED + seed, MOST_QUESTIONS, TARGET, avoid=held_out)


def _spread(mix: Mapping[str, int], count: int) -> list[str]:
    """Return ``count`` family names such that every prefix is as close to ``mix`` as it can be."""
    total = sum(mix.values())
    placed = dict.fromkeys(mix, 0)
    names = []
    for index in range(1, count + 1):
        name = max(mix, key=lambda family: mix[family] * index / total - placed[family])
        placed[name] += 1
        names.append(name)
    return names


def _numbers(problem: Problem) -> tuple[str, ...]:
    return (problem.family, *re.findall(r"\d+", problem.question))
