"""Arithmetic on ragged per-token values: sums and means per example, alignment between passes, stable logarithms.

Everything works on tensor methods alone, so methods that import it stay free of torch. Legend in
``worker.training.types``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from worker.training.types import TokenScores

# Float32 log-probabilities carry about 1e-7: a value that equals its threshold up to this share is not above it.
ABOVE = 1e-6
LOGPROB_FLOOR = -100.0
_LARGEST_LOGPROB = -1e-6
_LOG_HALF = -0.6931471805599453


def sum_by_example(values: Tensor, scores: TokenScores) -> Tensor:
    """Return the sums of per-token ``values`` [N] over each example's tokens [B]; 0 where an example has none."""
    return values.new_zeros(scores.lengths.shape[0]).index_add(0, scores.example, values)


def mean_by_example(values: Tensor, scores: TokenScores) -> Tensor:
    """Return the means of per-token ``values`` [N] over each example's tokens [B]; 0 where an example has none."""
    return sum_by_example(values, scores) / scores.lengths.clamp(min=1)


def align(source: TokenScores, target: TokenScores, absent: float) -> Tensor:
    """Return the log-probabilities of ``source`` at the tokens of ``target`` [N of target].

    Both passes score the same tokens; tokens of examples that ``source`` lacks get ``absent``.
    """
    present = source.lengths[target.example] > 0
    return target.logprobs.new_full(target.logprobs.shape, absent).masked_scatter(present, source.logprobs)


def clamp_logprobs(logprobs: Tensor) -> Tensor:
    """Return ``logprobs`` bounded below, so that an impossible token costs 100 nats, not infinity."""
    return logprobs.clamp(min=LOGPROB_FLOOR)


def log_complement(logprobs: Tensor) -> Tensor:
    """Return log(1 - p) for log p, exact at both ends and bounded: p is taken as at most 1 - 1e-6.

    Two branches as in Maechler 2012 (https://cran.r-project.org/web/packages/Rmpfr/vignettes/log1mexp-note.pdf):
    log(-expm1(x)) for x near 0, log1p(-exp(x)) for small p.
    """
    bounded = clamp_logprobs(logprobs).clamp(max=_LARGEST_LOGPROB)
    likely = bounded > _LOG_HALF
    # Each branch gets a harmless argument where the other is chosen: where() would turn an infinite slope into NaN.
    near_one = (-bounded.where(likely, bounded.new_tensor(_LOG_HALF)).expm1()).log()
    near_zero = (-bounded.where(~likely, bounded.new_tensor(_LOG_HALF)).exp()).log1p()
    return near_one.where(likely, near_zero)
