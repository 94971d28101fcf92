"""What a pass does when memory runs short: it is repeated with less of it, and the result stays the same."""

from __future__ import annotations

import gc
import os
import resource
from typing import TYPE_CHECKING, TypeVar

import msgspec
import torch

from worker.training.engine.recomputation import CheckpointedLayers
from worker.training.errors import DeviceOutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peft import PeftModel

    from worker.training.spec import RuntimeSettings

T = TypeVar("T")

_CPU_MEMORY_MESSAGES = ("not enough memory", "allocate memory")
_CPU_TOKENS = 1024
_RUNGS = 4  # from no decoder layer checkpointed to all


class MemoryRung(msgspec.Struct, frozen=True):
    """Where a run stands on its ladder: part of a checkpoint, since the size of micro-batches decides rounding."""

    micro_batch_tokens: int
    checkpointed_layers: int


class MemoryLadder:
    """How much memory a forward pass takes, less after every time that it was too much; the gradient stays the same.

    First micro-batches are halved, which costs nothing but their efficiency. When one example alone is too large, a
    quarter of the decoder layers after the other is turned to activation checkpointing.

    Args:
        adapted: The model with its adapter.
        micro_batch_tokens: Most tokens of one forward pass to begin with.
    """

    def __init__(self, adapted: PeftModel, micro_batch_tokens: int) -> None:
        self.micro_batch_tokens = micro_batch_tokens
        self._device = adapted.device
        self._layers = CheckpointedLayers(adapted)

    @property
    def rung(self) -> MemoryRung:
        """Where the run stands."""
        return MemoryRung(self.micro_batch_tokens, self._layers.count)

    def describe(self) -> str:
        """Return where the run stands, as a clause."""
        layers = self._layers
        twice = f", and {layers.count} of {layers.total} decoder layers are computed twice" if layers.count else ""
        return f"micro-batches hold at most {self.micro_batch_tokens} tokens{twice}"

    def descend_to(self, rung: MemoryRung) -> None:
        """Take no more memory than at ``rung``."""
        self.micro_batch_tokens = min(self.micro_batch_tokens, rung.micro_batch_tokens)
        self.checkpoint_layers(max(self._layers.count, rung.checkpointed_layers))

    def checkpoint_layers(self, count: int) -> None:
        """Turn ``count`` decoder layers, at most all, to activation checkpointing and the others off it."""
        self._layers.checkpoint(count)

    def fit(
        self,
        attempt: Callable[[], T],
        sizes: Sequence[int],
        group: Callable[[], Sequence[Sequence[int]]],
        start_over: Callable[[], None],
        *,
        keeps_activations: bool = False,
    ) -> T:
        """Return what ``attempt`` returns, with less and less memory as long as it does not suffice.

        Args:
            attempt: Scores examples in micro-batches of ``micro_batch_tokens``.
            sizes: Tokens that each example needs at the same time.
            group: Returns the micro-batches that ``attempt`` would make now: which examples share one.
            start_over: Undoes what a failed attempt left behind.
            keeps_activations: It has a backward pass, so that checkpointing helps.

        Raises:
            DeviceOutOfMemoryError: The largest example does not fit by itself, whatever is checkpointed.
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
            if not self._part(sizes, group):
                self._descend(sizes, keeps_activations=keeps_activations)

    def _part(self, sizes: Sequence[int], group: Callable[[], Sequence[Sequence[int]]]) -> bool:
        """Halve micro-batches until fewer examples share one; return whether that could be done.

        The size of an example says little of it: what examples begin with alike does not count towards their budget.
        """
        self.micro_batch_tokens = min(self.micro_batch_tokens, sum(sizes))
        before = group()
        if max(map(len, before), default=0) <= 1:
            return False
        while self.micro_batch_tokens > 1 and group() == before:
            self.micro_batch_tokens //= 2
        return group() != before

    def _descend(self, sizes: Sequence[int], *, keeps_activations: bool) -> None:
        layers = self._layers
        if keeps_activations and layers.count < layers.total:
            layers.checkpoint(layers.count + -(-layers.total // _RUNGS))
        else:
            raise DeviceOutOfMemoryError(
                f"one example of {max(sizes)} tokens does not fit {_describe_memory(self._device)} by itself "
                f"({self.describe()}); shorten the rows, take a smaller base model or a larger device",
                "training_file",
            )


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


def _describe_memory(device: torch.device) -> str:
    is_gpu = device.type == "cuda"
    size = torch.cuda.mem_get_info(device)[1] if is_gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"the {size / 2**30:.1f} GiB of memory of {device}"
