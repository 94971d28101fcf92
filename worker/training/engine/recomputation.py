"""Activation checkpointing of decoder layers: what a layer computes inside is not kept, but computed again backward.

Chen et al. 2016, https://arxiv.org/abs/1604.06174. A checkpointed layer keeps its input alone and costs a second
forward pass: 2 FLOPs a frozen parameter and token beside the usual 4. Models of transformers have a switch of their
own, which works in training mode only; a base model stays in eval mode here, so that its own dropout is never active.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from worker.training.model.decoder_layers import find_decoder_layers, find_lowest_trained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager


class CheckpointedLayers:
    """The dial of a model: the number of its decoder layers that are computed again in the backward pass.

    Args:
        model: With its adapter attached. Layers below the lowest trained one keep nothing and do not count.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = find_decoder_layers(model)
        self._layers = layers[find_lowest_trained(layers) :]
        self.count = 0

    @property
    def total(self) -> int:
        """Layers that can be checkpointed; 0 where the model's layers are not known as such."""
        return len(self._layers)

    def checkpoint(self, count: int) -> None:
        """Let ``count`` layers, at most all, be computed again, the others keep what they compute."""
        self.count = min(count, self.total)
        for index, layer in enumerate(self._layers):
            own = layer.__dict__.get("forward")
            if index < self.count and not isinstance(own, _Recomputed):
                layer.forward = _Recomputed(layer)
            elif index >= self.count and isinstance(own, _Recomputed):
                del layer.forward


class _Recomputed:
    """The forward pass of ``layer``, in place of its own."""

    def __init__(self, layer: nn.Module) -> None:
        self._forward = layer.forward
        self._dropouts = [module for module in layer.modules() if isinstance(module, nn.Dropout)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        # By the time of the backward pass, on whichever thread, the layout of the documents and the adapter's dropout
        # are no longer set: both are remembered. Generators are restored by torch.
        forward = partial(copy_context().run, self._forward)
        modes = [dropout.training for dropout in self._dropouts]
        return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(self._contexts, modes), **kwargs)

    def _contexts(self, modes: Sequence[bool]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._modes_set(modes)

    @contextmanager
    def _modes_set(self, modes: Sequence[bool]) -> Iterator[None]:
        before = [dropout.training for dropout in self._dropouts]
        self._set_modes(modes)
        try:
            yield
        finally:
            self._set_modes(before)

    def _set_modes(self, modes: Sequence[bool]) -> None:
        for dropout, training in zip(self._dropouts, modes, strict=True):
            dropout.train(training)
