import math
from typing import Any

import pytest
import torch

from tests.training.models import adapt, random_model
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.methods.base import Hyperparameters


def make(total_steps: int = 10, **values: Any) -> AdapterOptimizer:
    chosen = Hyperparameters.model_validate({"learning_rate": 1.0, "warmup_ratio": 0.2} | values)
    return AdapterOptimizer(adapt(random_model("llama")), chosen, total_steps=total_steps)


def rates(optimizer: AdapterOptimizer) -> list[float]:
    return [optimizer.learning_rate(step) for step in range(1, 11)]


@pytest.mark.parametrize(
    ("schedule", "decay"),
    [
        ("constant", [1.0] * 8),
        ("linear", [1 - step / 8 for step in range(8)]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]),
    ],
)
def test_schedules(schedule: str, decay: list[float]) -> None:
    assert rates(make(lr_scheduler=schedule)) == pytest.approx([0.5, 1.0, *decay])


def test_multiplier_scales_the_peak() -> None:
    assert max(rates(make(learning_rate_multiplier=0.5))) == 0.5


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_a_run_of_one_step_learns(warmup: float) -> None:
    assert make(total_steps=1, warmup_ratio=warmup).learning_rate(1) == 1.0


def _fill(optimizer: AdapterOptimizer, value: float) -> None:
    for parameter in optimizer._named.values():
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize(("limit", "expected"), [(1.0, 1.0), (0.0, None), (1e9, None)])
def test_clip_bounds_the_norm_and_returns_what_it_was(limit: float, expected: float | None) -> None:
    optimizer = make(max_grad_norm=limit)
    _fill(optimizer, 0.5)
    count = sum(parameter.numel() for parameter in optimizer._named.values())
    assert optimizer.clip().item() == pytest.approx(0.5 * math.sqrt(count), rel=1e-5)
    norm = torch.stack([p.grad.norm() for p in optimizer._named.values() if p.grad is not None]).norm().item()
    assert norm == pytest.approx(expected or 0.5 * math.sqrt(count), rel=1e-4)


def test_continuing_from_saved_state_is_exact() -> None:
    straight, first, second = make(), make(), make()
    for step in (1, 2, 3, 4):
        _fill(straight, 0.1 * step)
        straight.step(step)
    for step in (1, 2):
        _fill(first, 0.1 * step)
        first.step(step)
    second.load_state(first.state())
    for mine, theirs in zip(second._named.values(), first._named.values(), strict=True):
        mine.data.copy_(theirs)
    for step in (3, 4):
        _fill(second, 0.1 * step)
        second.step(step)
    assert all(torch.equal(a, b) for a, b in zip(second._named.values(), straight._named.values(), strict=True))


def test_state_of_another_model_is_refused() -> None:
    with pytest.raises(KeyError):
        make().load_state({})
