"""How a process computes: threads, seeds, determinism, the state of all random generators."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from worker.training.spec import RuntimeSettings


def configure_runtime(settings: RuntimeSettings, seed: int) -> None:
    """Set threads, determinism and all seeds of this process; call it before anything touches a device."""
    torch.set_num_threads(settings.threads)
    # cuBLAS reads this when it starts; without it deterministic mode refuses every matrix product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # On a GPU some kernels have no deterministic form: better a warning than no training.
    torch.use_deterministic_algorithms(settings.deterministic, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # set at run time
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@dataclass(frozen=True, slots=True)
class RandomState:
    """The state of all generators: Python's and NumPy's as JSON values, torch's and CUDA's as uint8 tensors by name."""

    plain: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def capture(cls) -> RandomState:
        """Return the state of this process."""
        kind, keys, *rest = np.random.get_state(legacy=True)
        version, words, gauss = random.getstate()
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        cuda = {f"cuda.{index}": state for index, state in enumerate(devices)}
        plain = {"python": [version, list(words), gauss], "numpy": [kind, np.asarray(keys).tolist(), *rest]}
        return cls(plain, {"torch": torch.get_rng_state(), **cuda})

    def restore(self) -> None:
        """Give this process the captured state; devices that it has more of keep theirs."""
        version, words, gauss = self.plain["python"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(tuple(self.plain["numpy"]))
        torch.set_rng_state(self.tensors["torch"])
        for index in range(torch.cuda.device_count()):
            if (state := self.tensors.get(f"cuda.{index}")) is not None:
                torch.cuda.set_rng_state(state, index)
