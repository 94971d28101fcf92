"""One optimizer step over the rows of a batch: micro-batches, gradient, guard against NaN, retry with less memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from worker.training.engine.parallel import ALONE, share_out
from worker.training.engine.runtime import RandomState
from worker.training.engine.transfer import to_device
from worker.training.errors import NonFiniteLossError, TrainingInterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from worker.training.engine.optimizer import AdapterOptimizer
    from worker.training.engine.parallel import Ranks
    from worker.training.engine.prepared import PreparedExample
    from worker.training.engine.scoring import Scorer
    from worker.training.methods.base import Hyperparameters, Method
    from worker.training.types import LossOutput


# Token weights are counted in bins of a twentieth up to 2, the largest weight that NLFT gives; what is above is in the
# last bin.
WEIGHT_BIN = 0.05
WEIGHT_BINS = 40
# Of a token, in tokens without gradient: with a frozen base the backward pass costs what the forward pass does.
_GRADIENT_WORK = 2


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
        ranks: Processes that share the examples of every step and evaluation; each is given all of them.
    """

    def __init__(self, scorer: Scorer, method: Method, hyperparameters: Hyperparameters, ranks: Ranks = ALONE) -> None:
        self._scorer = scorer
        self._method = method
        self._hyperparameters = hyperparameters
        self._ranks = ranks
        self._passes = method.passes(hyperparameters)
        self._main = next(p for p in self._passes if p.name == method.main_pass)
        self._kept = [p for p in self._passes if p.with_grad]  # in memory until their backward pass, all at once

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
            totals = self._together(examples, lambda *_: check(), start_over)
        except TrainingInterrupted:
            start_over()
            raise
        optimizer.add_up(self._ranks)
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
            totals = self._together(examples, report, lambda: None)
        return _summarize(totals, len(examples), grad_norm=None)

    def _together(
        self, examples: Sequence[PreparedExample], begin: Callable[[int, int], None], start_over: Callable[[], None]
    ) -> _Totals:
        """Return what the shares of all ranks come to; the gradients stay where they are."""
        own = share_out([self._work(example) for example in examples], self._ranks.size)[self._ranks.rank]
        chosen = [examples[index] for index in own]

        def run() -> _Totals:
            totals = self._scorer.memory.fit(
                lambda: self._accumulate(examples, own, begin),
                [example.tokens(self._kept) for example in chosen],
                lambda: self._scorer.group_examples(chosen, self._kept),
                start_over,
                keeps_activations=torch.is_grad_enabled(),
            )
            return totals if self._ranks.size == 1 else totals.on_host()

        return _merge(self._ranks.gather(run))

    def _work(self, example: PreparedExample) -> int:
        """Return what a step on ``example`` costs, in tokens of a pass without gradient."""
        run = (p for p in self._passes if not p.cached)
        return sum(example.tokens([p]) * (_GRADIENT_WORK if p.with_grad else 1) for p in run)

    def _accumulate(
        self, examples: Sequence[PreparedExample], own: Sequence[int], begin: Callable[[int, int], None]
    ) -> _Totals:
        """Run the micro-batches of one's ``own`` share, with backward passes of its part of the mean over ``examples``.

        Without autograd there are no backward passes. Nothing here waits for the device.
        """
        passes = self._passes if torch.is_grad_enabled() else [replace(p, with_grad=False) for p in self._passes]
        totals = _Totals([], [], {}, [], [], sum(examples[index].tokens([self._main]) for index in own))
        for group in self._scorer.group_examples([examples[index] for index in own], self._kept):
            begin(len(totals.order), len(own))
            places = [own[index] for index in group]
            batch, hits = self._scorer.score([examples[place] for place in places], passes)
            output = self._method.loss(batch, self._hyperparameters)
            if output.losses.requires_grad:
                self._scorer.backward(output.losses.sum() / len(examples))
            totals.add(output, hits[self._main.name], places)
        return totals


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over micro-batches, left on the device; ``order`` says which of the step's examples each loss is of."""

    losses: list[Tensor]
    hits: list[Tensor]
    metrics: dict[str, list[Tensor]]
    weight_counts: list[Tensor]
    order: list[int]
    tokens: int

    def add(self, output: LossOutput, hits: Tensor, places: Sequence[int]) -> None:
        self.order.extend(places)
        self.losses.append(output.losses.detach())
        self.hits.append(hits)
        for name, value in output.metrics.items():
            self.metrics.setdefault(name, []).append(value * len(output.losses))
        if output.token_weights is not None:
            self.weight_counts.append(_count_weights(output.token_weights))

    def on_host(self) -> _Totals:
        """Return the same sums off the device, one tensor of each."""
        metrics = {name: [torch.stack(values).cpu()] for name, values in self.metrics.items()}
        losses, hits = ([torch.cat(column).cpu()] if column else [] for column in (self.losses, self.hits))
        counts = [torch.stack(self.weight_counts).sum(dim=0).cpu()] if self.weight_counts else []
        return _Totals(losses, hits, metrics, counts, self.order, self.tokens)


def _merge(parts: Sequence[_Totals]) -> _Totals:
    """Return the totals of all ranks as if one had run all examples, with the losses in their order."""
    order = [index for part in parts for index in part.order]
    losses = torch.cat([loss for part in parts for loss in part.losses])
    if order != sorted(order):
        losses = losses.index_select(0, to_device(np.argsort(order), losses.device))
    metrics: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, values in part.metrics.items():
            metrics.setdefault(name, []).extend(value for stacked in values for value in stacked.reshape(-1))
    return _Totals(
        [losses],
        [hits for part in parts for hits in part.hits],
        metrics,
        [counts for part in parts for counts in part.weight_counts],
        sorted(order),
        sum(part.tokens for part in parts),
    )


def _count_weights(weights: Tensor) -> Tensor:
    """Return how many of ``weights`` [N] lie in each bin, int64 [WEIGHT_BINS]."""
    # Compared with every bin, since histograms on a GPU are not deterministic or wait for the device.
    bins = (weights / WEIGHT_BIN).floor().clamp(0, WEIGHT_BINS - 1)
    return (bins[:, None] == torch.arange(WEIGHT_BINS, device=weights.device)).sum(dim=0)


def _summarize(totals: _Totals, examples: int, *, grad_norm: Tensor | None) -> StepResult:
    """Return the figures of a step; the one place that reads from the device."""
    hits = torch.cat(totals.hits)
    names = list(totals.metrics)
    norm = hits.new_zeros((), dtype=torch.float32) if grad_norm is None else grad_norm.to(hits.device)
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
