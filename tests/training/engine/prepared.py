"""Rendered rows of random tokens, a scorer over a tiny model, and passes that run out of memory."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from tests.training.models import adapt, inner, random_model
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.scoring import Scorer
from worker.training.types import RenderedExample, TokenSequence

BUDGET = 10_000


def prepare(
    lengths: Sequence[Mapping[str, int]], values: Sequence[Mapping[str, float]] | None = None
) -> list[PreparedExample]:
    """Return rows with random sequences of the given total lengths, all but their first two tokens scored."""
    generator = np.random.default_rng(0)
    return [
        PreparedExample(
            line,
            RenderedExample(
                {
                    name: TokenSequence(
                        generator.integers(256, size=length).astype(np.int32), np.arange(2, length, dtype=np.int32)
                    )
                    for name, length in row.items()
                },
                values[line - 1] if values else {},
            ),
        )
        for line, row in enumerate(lengths, start=1)
    ]


def completions(*lengths: int) -> list[PreparedExample]:
    """Return rows for the supervised method."""
    return prepare([{"completion": length} for length in lengths])


def make_scorer(budget: int = BUDGET, **adapter: Any) -> tuple[PeftModel, Scorer]:
    """Return an adapted tiny model and its scorer."""
    adapted = adapt(random_model("llama"), **adapter)
    return adapted, Scorer(adapted, micro_batch_tokens=budget)


def limit_memory(adapted: PeftModel, tokens: int) -> None:
    """Let every forward pass of more than ``tokens`` run out of memory, as a small device does."""

    def refuse(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if named["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")

    inner(adapted).base_model.register_forward_pre_hook(refuse, with_kwargs=True)


def limit_activations(adapted: PeftModel, size: int) -> AbstractContextManager[Any]:
    """Let every forward pass that keeps more than ``size`` bytes for its backward pass run out of memory."""
    kept = [0]

    def keep(tensor: Tensor) -> Tensor:
        kept[0] += tensor.numel() * tensor.itemsize
        if kept[0] > size:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tensor

    inner(adapted).base_model.register_forward_pre_hook(lambda *_: kept.__setitem__(0, 0))
    return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)


class GradientKeeper(AdapterOptimizer):
    """Keeps the gradient of a step where the real one applies it."""

    def step(self, step: int) -> None:
        pass
