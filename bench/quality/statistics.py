"""Compares two arms problem by problem.

All arms answer the same problems on the same data seeds, so what is analysed is the table of differences
``d[seed, problem]`` in {-1, 0, 1}. Its entries are not independent: a seed shifts all problems, a problem is easy for
all seeds. Two questions are told apart.

*Would it hold for other training data and other problems?* A crossed ("pigeonhole", Owen 2007,
https://arxiv.org/abs/0712.1111) bootstrap draws seeds and problems independently. Of S seeds S - 1 are drawn, which
makes the variance between few seeds unbiased. It tends to be careful: noise within cells is counted twice.

*Do these very adapters differ, on other problems?* A sign-flip permutation test over problems; the seeds' differences
of a problem are flipped together. It says nothing about other training data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two arms, all in shares of right answers.

    Attributes:
        difference: Mean over seeds and problems.
        low: Lower end of the 95 % interval over seeds and problems.
        high: Its upper end.
        p: Two-sided, over seeds and problems; nan with a single seed, whose interval is over problems only.
        p_problems: Two-sided, these adapters on other problems.
        seeds: How many seeds both arms have.
    """

    difference: float
    low: float
    high: float
    p: float
    p_problems: float
    seeds: int


def compare(one: Sequence[str], other: Sequence[str], *, seed: int = 0) -> Comparison:
    """Return ``one`` minus ``other``: for each data seed a string of 1 (right) and 0, problems in the same order.

    Raises:
        ValueError: The two do not pair up.
    """
    first, second = as_table(one), as_table(other)
    if first.shape != second.shape:
        message = f"answers of shape {first.shape} and {second.shape} cannot be paired"
        raise ValueError(message)
    differences = first - second
    drawn = _crossed_bootstrap(differences, np.random.default_rng(seed))
    mean = float(differences.mean())
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Comparison(
        difference=mean,
        low=float(low),
        high=float(high),
        p=_share_as_extreme(drawn - mean, mean) if len(differences) > 1 else float("nan"),
        p_problems=_flip_signs(differences, np.random.default_rng(seed)),
        seeds=len(differences),
    )


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of ``values`` over seeds; nan for a single one."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def as_table(answers: Sequence[str]) -> NDArray[np.float64]:
    """Return answers as float64 [seeds, problems]."""
    return np.array([[float(answer) for answer in line] for line in answers])


def _crossed_bootstrap(differences: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the means [_DRAWS] of tables whose seeds and problems were drawn with replacement."""
    seeds, problems = differences.shape
    drawn_seeds = max(1, seeds - 1)
    seed_weights = rng.multinomial(drawn_seeds, np.full(seeds, 1 / seeds), size=_DRAWS) / drawn_seeds
    problem_weights = rng.multinomial(problems, np.full(problems, 1 / problems), size=_DRAWS) / problems
    means: NDArray[np.float64] = np.einsum("ds,sp,dp->d", seed_weights, differences, problem_weights, optimize=True)
    return means


def _flip_signs(differences: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Return the two-sided p of the mean difference when every problem's sign is a coin."""
    by_problem = differences.mean(axis=0)
    signs = rng.integers(0, 2, size=(_DRAWS, len(by_problem))) * 2 - 1
    return _share_as_extreme(signs @ by_problem / len(by_problem), float(by_problem.mean()))


def _share_as_extreme(drawn: NDArray[np.float64], observed: float) -> float:
    """Return how often ``drawn`` is as far from 0 as ``observed``; never exactly 0."""
    return float((np.sum(np.abs(drawn) >= abs(observed) - 1e-12) + 1) / (len(drawn) + 1))
