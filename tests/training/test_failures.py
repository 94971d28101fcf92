import pytest
import torch

from worker.training.errors import DeviceOutOfMemoryError, TrainingError
from worker.training.failures import explain


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_missing_memory_is_told_wherever_it_is_missed(error: Exception) -> None:
    assert isinstance(explain(error), DeviceOutOfMemoryError)


def test_nothing_of_an_unforeseen_error_is_told() -> None:
    found = explain(RuntimeError("row 7 of /data/secret.jsonl"))
    assert type(found) is TrainingError
    assert "secret" not in found.message
