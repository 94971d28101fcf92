"""One optimizer step over the rows of a batch: micro-batches, gradient, guard against NaN, retry with less memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from worker.training.engine.packing import group_by_budget
from worker.training.engine.runtime import RandomState
from worker.training.errors import NonFiniteLossError, TrainingInterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from worker.training.engine.optimizer import AdapterOptimizer
    from worker.training.engine.scoring import PreparedExample, Scorer
    from worker.training.methods.base import Hyperparameters, Method
    from worker.training.types import LossOutput


# Token weights are counted in bins of a twentieth up to 2, the largest weight that NLFT gives; what is above is in the
# last bin.
WEIGHT_BIN = 0.05
WEIGHT_BINS = 40


@dataclass(frozen=True, slots=True)
class StepResult:
    """Figures of a step or an evaluation.

    Attributes:
        loss: Mean over examples (nats).
        accuracy: Share of the main pass's scored tokens that were the likeliest.
        grad_norm: Before clipping; 0 in an evaluation.
        tokens: Prompt and response tokens of the main pass.
        metrics: The method's own, means over examples.
        losses: Of every example, in their order.
        weight_counts: Scored tokens of the main pass in bins of weight, see ``WEIGHT_BIN``; empty where the method
            gives every token the same.
    """

    loss: float
    accuracy: float
    grad_norm: float
    tokens: int
    metrics: Mapping[str, float]
    losses: Sequence[float]
    weight_counts: Sequence[int]


class Stepper:
    """Computes losses and gradients of a method.

    Args:
        scorer: Runs the forward passes.
        method: The training method.
        hyperparameters: Of that method.
    """

    def __init__(self, scorer: Scorer, method: Method, hyperparameters: Hyperparameters) -> None:
        self._scorer = scorer
        self._method = method
        self._hyperparameters = hyperparameters
        self._passes = method.passes(hyperparameters)
        self._main = next(p for p in self._passes if p.name == method.main_pass)

    def train(
        self,
        examples: Sequence[PreparedExample],
        optimizer: AdapterOptimizer,
        step: int,
        check: Callable[[], None],
    ) -> StepResult:
        """Make the 1-based optimizer ``step`` on ``examples``.

        ``check`` is called before every micro-batch; when it raises, nothing has changed.

        Raises:
            TrainingInterrupted: From ``check``.
            NonFiniteLossError: Loss or gradient is not finite; the weights are unchanged.
            DeviceOutOfMemoryError: A single example does not fit the device.
        """
        random_state = RandomState.capture()

        def start_over() -> None:
            optimizer.drop_gradient()
            random_state.restore()

        try:
            totals = self._scorer.memory.fit(
                lambda: self._accumulate(examples, lambda _: check()),
                self._sizes(examples),
                start_over,
                keeps_activations=True,
            )
        except TrainingInterrupted:
            start_over()
            raise
        result = _summarize(totals, len(examples), grad_norm=optimizer.clip())
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            optimizer.drop_gradient()
            raise NonFiniteLossError(
                f"loss {result.loss} and gradient norm {result.grad_norm} at step {step}, which changed nothing; "
                "lower learning_rate or learning_rate_multiplier, or look for extreme rows in the training file",
                f"method.{self._method.name}.hyperparameters.learning_rate",
            )
        optimizer.step(step)
        return result

    def evaluate(self, examples: Sequence[PreparedExample], report: Callable[[int, int], None]) -> StepResult:
        """Return the loss and accuracy on ``examples`` without changing anything; ``report`` takes done and total.

        Raises:
            DeviceOutOfMemoryError: A single example does not fit the device.
        """
        with torch.no_grad():
            totals = self._scorer.memory.fit(
                lambda: self._accumulate(examples, lambda done: report(done, len(examples))),
                self._sizes(examples),
                lambda: None,
            )
        return _summarize(totals, len(examples), grad_norm=None)

    def _sizes(self, examples: Sequence[PreparedExample]) -> list[int]:
        """Return the tokens that are in memory at the same time for each example."""
        return [example.tokens([p for p in self._passes if p.with_grad]) for example in examples]

    def _accumulate(self, examples: Sequence[PreparedExample], begin: Callable[[int], None]) -> _Totals:
        """Run all micro-batches, with backward passes where autograd is on; nothing here waits for the device."""
        passes = self._passes if torch.is_grad_enabled() else [replace(p, with_grad=False) for p in self._passes]
        totals = _Totals([], [], {}, [], sum(example.tokens([self._main]) for example in examples))
        for group in group_by_budget(self._sizes(examples), self._scorer.memory.micro_batch_tokens):
            begin(group.start)
            part = [examples[index] for index in group]
            batch, hits = self._scorer.score(part, passes)
            output = self._method.loss(batch, self._hyperparameters)
            if output.losses.requires_grad:
                self._scorer.backward(output.losses.sum() / len(examples))
            totals.add(output, hits[self._main.name])
        return totals


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over micro-batches, left on the device."""

    losses: list[Tensor]
    hits: list[Tensor]
    metrics: dict[str, list[Tensor]]
    weight_counts: list[Tensor]
    tokens: int

    def add(self, output: LossOutput, hits: Tensor) -> None:
        self.losses.append(output.losses.detach())
        self.hits.append(hits)
        for name, value in output.metrics.items():
            self.metrics.setdefault(name, []).append(value * len(output.losses))
        if output.token_weights is not None:
            self.weight_counts.append(_count_weights(output.token_weights))


def _count_weights(weights: Tensor) -> Tensor:
    """Return how many of ``weights`` [N] lie in each bin, int64 [WEIGHT_BINS]."""
    # Compared with every bin, since histograms on a GPU are not deterministic or wait for the device.
    bins = (weights / WEIGHT_BIN).floor().clamp(0, WEIGHT_BINS - 1)
    return (bins[:, None] == torch.arange(WEIGHT_BINS, device=weights.device)).sum(dim=0)


def _summarize(totals: _Totals, examples: int, *, grad_norm: Tensor | None) -> StepResult:
    """Return the figures of a step; the one place that reads from the device."""
    hits = torch.cat(totals.hits)
    names = list(totals.metrics)
    norm = hits.new_zeros((), dtype=torch.float32) if grad_norm is None else grad_norm
    losses = torch.cat(totals.losses)
    counts = [torch.stack(totals.weight_counts).sum(dim=0)] if totals.weight_counts else []
    sums = [hits.sum(), norm, *(torch.stack(totals.metrics[name]).sum() for name in names)]
    # Doubles hold both the losses' bits and the counts.
    found = torch.cat([torch.stack([value.double() for value in [losses.sum(), *sums]]), losses, *counts]).tolist()
    loss, hit, norm_value = found[:3]
    values, rest = found[3 : 3 + len(names)], found[3 + len(names) :]
    return StepResult(
        loss=loss / examples,
        accuracy=hit / max(1, len(hits)),
        grad_norm=norm_value,
        tokens=totals.tokens,
        metrics={name: value / examples for name, value in zip(names, values, strict=True)},
        losses=rest[:examples],
        weight_counts=[int(count) for count in rest[examples:]],
    )
