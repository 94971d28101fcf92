import random

import numpy as np
import pytest
import torch

from worker.training.engine.runtime import choose_micro_batch_tokens, configure_runtime, is_out_of_memory
from worker.training.spec import RuntimeSettings


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_seed_decides_what_every_generator_draws() -> None:
    settings = RuntimeSettings(device="cpu")
    configure_runtime(settings, seed=4)
    first = draw()
    configure_runtime(settings, seed=4)
    assert draw() == first
    configure_runtime(settings, seed=5)
    assert draw() != first


@pytest.mark.parametrize("deterministic", [False, True])
def test_threads_and_determinism_are_set(deterministic: bool) -> None:
    configure_runtime(RuntimeSettings(threads=1, deterministic=deterministic), seed=0)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled() == deterministic


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_out_of_memory_is_told_apart(error: RuntimeError, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("device", "budget", "expected"), [("cpu", 8192, 1024), ("cpu", 100, 100), ("cuda", 8192, 8192)]
)
def test_packs_are_short_on_a_cpu(device: str, budget: int, expected: int) -> None:
    settings = RuntimeSettings(micro_batch_tokens=budget)
    assert choose_micro_batch_tokens(settings, torch.device(device)) == expected
