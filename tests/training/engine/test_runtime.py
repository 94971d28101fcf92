import random

import numpy as np
import pytest
import torch

from worker.training.engine.runtime import configure_runtime
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
