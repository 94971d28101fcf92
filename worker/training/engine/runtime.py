"""How a process computes: threads, seeds, determinism, the state of all random generators, memory running short."""

from __future__ import annotations

import gc
import os
import random
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from worker.training.spec import RuntimeSettings

_CPU_MEMORY_MESSAGES = ("not enough memory", "allocate memory")
_CPU_TOKENS = 1024


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


def choose_micro_batch_tokens(settings: RuntimeSettings, device: torch.device) -> int:
    """Return the most tokens of one forward pass: what is set, on a CPU no more than it gains from.

    A core is as fast per token at a thousand tokens as at eight thousand, and a cancel is heard between passes only.
    """
    return min(settings.micro_batch_tokens, _CPU_TOKENS) if device.type == "cpu" else settings.micro_batch_tokens


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether ``error`` says that a device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _CPU_MEMORY_MESSAGES)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory held so far: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def release_memory() -> None:
    """Give back what the failed pass held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
