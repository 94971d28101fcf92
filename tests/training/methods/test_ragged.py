import math

import pytest
import torch

from tests.training.builders import log_scores, scores
from worker.training.methods.ragged import (
    LOGPROB_FLOOR,
    align,
    clamp_logprobs,
    log_complement,
    mean_by_example,
    sum_by_example,
)


def test_sums_and_means_are_per_example() -> None:
    tokens = log_scores(torch.zeros(5), [2, 0, 3])
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert sum_by_example(values, tokens).tolist() == [3.0, 0.0, 12.0]
    assert mean_by_example(values, tokens).tolist() == [1.5, 0.0, 4.0]


def test_align_puts_scores_of_some_examples_beside_the_tokens_of_all() -> None:
    base = scores([0.1], [0.2, 0.3], [0.4])
    judged = log_scores(torch.tensor([-1.0, -2.0]), [0, 2, 0])
    assert align(judged, base, absent=-9.0).tolist() == [-9.0, -1.0, -2.0, -9.0]


def test_an_impossible_token_costs_a_bounded_loss() -> None:
    assert clamp_logprobs(torch.tensor([-math.inf, -1.0])).tolist() == [LOGPROB_FLOOR, -1.0]


@pytest.mark.parametrize("probability", [1e-30, 1e-8, 1e-3, 0.3, 0.5, 0.7, 0.999, 0.99999])
def test_log_complement_is_exact(probability: float) -> None:
    logprob = math.log(probability)
    computed = log_complement(torch.tensor([logprob], dtype=torch.float32)).item()
    assert computed == pytest.approx(
        math.log1p(-math.exp(logprob)), rel=2e-3 if probability > 0.9999 else 1e-5, abs=1e-37
    )


@pytest.mark.parametrize("logprob", [0.0, -1e-12, -1e-6, -0.6931472, -50.0, -1e4, -math.inf])
def test_log_complement_and_its_slope_are_finite_everywhere(logprob: float) -> None:
    value = torch.tensor([logprob], requires_grad=True)
    torch.autograd.backward(log_complement(value).sum())
    assert torch.isfinite(log_complement(value)).all()
    assert value.grad is not None
    assert torch.isfinite(value.grad).all()


def test_slope_of_log_complement_is_minus_the_odds() -> None:
    value = torch.tensor([0.1, 0.5, 0.9]).log().requires_grad_()
    torch.autograd.backward(log_complement(value).sum())
    assert value.grad is not None
    torch.testing.assert_close(value.grad, torch.tensor([-1 / 9, -1.0, -9.0]), rtol=1e-5, atol=0)
