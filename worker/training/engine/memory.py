"""What a pass does when memory runs short: it is repeated with less of it, and the result stays the same."""

from __future__ import annotations

import gc
import resource
from typing import TYPE_CHECKING, TypeVar

import torch

from worker.training.errors import DeviceOutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.training.spec import RuntimeSettings

T = TypeVar("T")

_CPU_MEMORY_MESSAGES = ("not enough memory", "allocate memory")
_CPU_TOKENS = 1024


class MemoryLadder:
    """How much memory a forward pass takes, less after every time that it was too much.

    Attributes:
        micro_batch_tokens: Most tokens of one forward pass.
    """

    def __init__(self, device: torch.device, micro_batch_tokens: int) -> None:
        self.micro_batch_tokens = micro_batch_tokens
        self._device = device

    def fit(self, attempt: Callable[[], T], sizes: Sequence[int], start_over: Callable[[], None]) -> T:
        """Return what ``attempt`` returns, halving ``micro_batch_tokens`` as long as memory does not suffice.

        Args:
            attempt: Scores examples in micro-batches of ``micro_batch_tokens``.
            sizes: Tokens that each example needs at the same time.
            start_over: Undoes what a failed attempt left behind.

        Raises:
            DeviceOutOfMemoryError: The largest example does not fit by itself.
        """
        while True:
            try:
                return attempt()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the traceback holds the tensors of the failed pass alive.
            start_over()
            release_memory()
            self.micro_batch_tokens = min(self.micro_batch_tokens, sum(sizes))
            if self.micro_batch_tokens <= max(sizes):
                raise DeviceOutOfMemoryError(
                    f"one example of {max(sizes)} tokens does not fit the memory of {self._device} by itself; "
                    "shorten the rows, take a smaller base model or a larger device",
                    "training_file",
                )
            self.micro_batch_tokens //= 2


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
