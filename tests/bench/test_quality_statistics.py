import math

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.quality.statistics import compare, standard_error

PROBLEMS = 150


def answers(rates: NDArray[np.float64], rng: np.random.Generator) -> list[str]:
    """Return a string of answers for each row of ``rates`` [seeds, problems]."""
    return ["".join("1" if hit else "0" for hit in rng.random(len(row)) < row) for row in rates]


def rates(rng: np.random.Generator, *, lead: float, seeds: int, between_seeds: float) -> NDArray[np.float64]:
    """Return rates [seeds, problems]: problems differ much, seeds a little."""
    problems = np.random.default_rng(5).uniform(0.1, 0.8, PROBLEMS)
    table: NDArray[np.float64] = np.clip(problems + lead + rng.normal(0, between_seeds, (seeds, 1)), 0, 1)
    return table


def test_equal_answers_differ_by_nothing() -> None:
    found = compare(["0110", "1010"], ["0110", "1010"])
    assert (found.difference, found.low, found.high, found.p, found.p_problems) == (0, 0, 0, 1, 1)


def test_the_difference_is_that_of_the_means() -> None:
    found = compare(["1110", "1111"], ["0000", "1111"])
    assert found.difference == pytest.approx(3 / 8)
    assert found.seeds == 2


def test_swapping_the_arms_turns_the_sign() -> None:
    rng = np.random.default_rng(1)
    one, other = (answers(rates(rng, lead=lead, seeds=3, between_seeds=0.05), rng) for lead in (0.1, 0.0))
    there, back = compare(one, other), compare(other, one)
    assert there.difference == -back.difference
    assert there.low == pytest.approx(-back.high, abs=0.01)


def test_a_real_lead_is_found_and_lies_in_the_interval() -> None:
    rng = np.random.default_rng(2)
    one = answers(rates(rng, lead=0.2, seeds=5, between_seeds=0.02), rng)
    other = answers(rates(rng, lead=0.0, seeds=5, between_seeds=0.02), rng)
    found = compare(one, other)
    assert found.low < 0.2 < found.high
    assert max(found.p, found.p_problems) < 0.01


def test_seeds_that_scatter_are_no_lead_but_their_adapters_do_differ() -> None:
    rng = np.random.default_rng(3)
    shifts = np.array([[0.3], [-0.2], [0.25]])
    problems = rates(rng, lead=0.0, seeds=1, between_seeds=0.0)
    found = compare(answers(np.clip(problems + shifts, 0, 1), rng), answers(np.repeat(problems, 3, 0), rng))
    assert found.p > 0.1
    assert found.p_problems < 0.01


def test_without_a_lead_few_comparisons_are_significant() -> None:
    rng = np.random.default_rng(4)
    found = [
        compare(*(answers(rates(rng, lead=0.0, seeds=5, between_seeds=0.04), rng) for _ in range(2)), seed=run).p
        for run in range(20)
    ]
    assert sum(p < 0.05 for p in found) <= 3


def test_a_single_seed_says_nothing_about_other_seeds() -> None:
    found = compare(["1111011101"], ["0000010000"])
    assert math.isnan(found.p)
    assert found.p_problems < 0.05


def test_answers_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(["01"], ["01", "10"])


def test_standard_error_is_of_the_mean() -> None:
    assert standard_error([0.1, 0.3]) == pytest.approx(0.1)
    assert math.isnan(standard_error([0.1]))
