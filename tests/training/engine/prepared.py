"""Rendered rows of random tokens, a scorer over a tiny model, and a method whose loss is easy to follow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from peft import PeftModel

from tests.training.models import adapt, random_model
from worker.training.engine.scoring import PreparedExample, Scorer
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
