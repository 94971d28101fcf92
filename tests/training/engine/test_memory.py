import pytest
import torch

from tests.training.models import adapt, random_model
from worker.training.engine.memory import MemoryLadder, MemoryRung, choose_micro_batch_tokens, is_out_of_memory
from worker.training.spec import RuntimeSettings


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


def test_a_rung_is_taken_over_downwards_only() -> None:
    ladder = MemoryLadder(adapt(random_model("llama")), 100)
    ladder.descend_to(MemoryRung(40, 1))
    assert ladder.rung == MemoryRung(40, 1)
    ladder.descend_to(MemoryRung(60, 0))
    assert ladder.rung == MemoryRung(40, 1)
