"""The machine's own limit: how fast it multiplies matrices of the shapes that a step multiplies."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from bench.trainer.flops import Shape
from bench.trainer.pace import now
from bench.trainer.points import ADAPTER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from bench.trainer.pace import Pace
    from bench.trainer.points import Point, Precision

Product = tuple[int, int, int]

_TRIES = 3
_MOST_ROWS = {"cpu": 1024, "cuda": 8192}  # of a micro-batch


def products(point: Point) -> Counter[Product]:
    """Return how often a trained micro-batch multiplies [rows, inner] by [inner, columns], back to the inputs included.

    Keys are (rows, inner, columns). The adapter's products are too thin to show what the machine can do.
    """
    shape = Shape.of(point.model_config(), rank=ADAPTER.r)
    bases = [row.sequences["base"] for row in point.rows()]
    tokens, scored = sum(len(one.input_ids) for one in bases), sum(len(one.scored) for one in bases)
    rows = min(tokens, _MOST_ROWS[point.device])
    head_rows = max(1, rows * scored // tokens)
    counts: Counter[Product] = Counter()
    for inside, outside in shape.linears:
        counts[rows, inside, outside] += 1
        counts[rows, outside, inside] += 1
    counts[head_rows, shape.hidden, shape.vocabulary] += 1
    counts[head_rows, shape.vocabulary, shape.hidden] += 1
    return counts


def operations(counts: Mapping[Product, int]) -> int:
    """Return the floating-point operations of all products."""
    return sum(2 * rows * inner * columns * count for (rows, inner, columns), count in counts.items())


def measure(point: Point, pace: Pace, *, precision: Precision | None = None) -> None:
    """Time every product of ``point``, the best of some tries each; a step is what all of them would take."""
    counts = products(point)
    generator = torch.Generator(point.device).manual_seed(0)
    for _ in range(pace.steps):
        pace.begin()
        total = 0.0
        for (rows, inner, columns), count in counts.items():
            left, right = (
                torch.randn(sizes, generator=generator, device=point.device).to(point.precision(precision))
                for sizes in ((rows, inner), (inner, columns))
            )
            total += count * min(_time(left, right, point.device) for _ in range(_TRIES))
        pace.end(total)


def _time(left: Tensor, right: Tensor, device: str) -> float:
    started = now(device)
    torch.mm(left, right)
    return now(device) - started
