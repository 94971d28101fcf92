"""AdamW over the adapter's weights, the learning-rate schedule, and their state as plain tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from worker.training.engine.parallel import add_up_gradients, digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from worker.training.engine.parallel import Ranks
    from worker.training.methods.base import Hyperparameters

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class AdapterOptimizer:
    """AdamW (https://arxiv.org/abs/1711.05101) over the trainable parameters of a model.

    Args:
        model: Its parameters that require a gradient are trained.
        hyperparameters: Learning rate, schedule, weight decay, clipping.
        total_steps: Optimizer steps of the whole run, for the schedule.
    """

    def __init__(self, model: nn.Module, hyperparameters: Hyperparameters, *, total_steps: int) -> None:
        self._hyperparameters = hyperparameters
        self._total_steps = total_steps
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        # An adapter is hundreds of small tensors: seven operations on each were two fifths of a short step's kernels.
        self._adamw = torch.optim.AdamW(
            list(self._named.values()), lr=0.0, weight_decay=hyperparameters.weight_decay, fused=True
        )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the 1-based ``step``: linear warm-up, then cosine, linear or no decay."""
        chosen = self._hyperparameters
        peak = chosen.learning_rate * chosen.learning_rate_multiplier
        warmup = math.ceil(chosen.warmup_ratio * self._total_steps)
        if step <= warmup:
            return peak * step / warmup
        progress = (step - 1 - warmup) / max(1, self._total_steps - warmup)
        if chosen.lr_scheduler == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * progress))
        return peak * (1 - progress) if chosen.lr_scheduler == "linear" else peak

    def add_up(self, ranks: Ranks) -> None:
        """Replace the accumulated gradient by the sum of those of all ``ranks``."""
        add_up_gradients(list(self._named.values()), ranks)

    def clip(self) -> Tensor:
        """Bound the gradient's norm and return the norm it had, float32 []."""
        limit = self._hyperparameters.max_grad_norm or math.inf
        return torch.nn.utils.clip_grad_norm_(self._named.values(), limit)

    def step(self, step: int) -> None:
        """Apply the accumulated gradient with the learning rate of the 1-based ``step``, and drop it."""
        for group in self._adamw.param_groups:
            group["lr"] = self.learning_rate(step)
        self._adamw.step()
        self.drop_gradient()

    def drop_gradient(self) -> None:
        """Forget the accumulated gradient."""
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return the moments and step counts by ``parameter name/kind``."""
        return {
            f"{name}/{kind}": self._adamw.state[parameter][kind].detach().cpu().contiguous()
            for name, parameter in self._named.items()
            for kind in _MOMENTS
            if parameter in self._adamw.state
        }

    def digest(self) -> list[int]:
        """Return what two equal adapters with equal moments have in common, see ``parallel.digest``."""
        parameters = list(self._named.values())
        kept = (self._adamw.state[p][kind] for p in parameters if p in self._adamw.state for kind in _MOMENTS[:2])
        return digest([*parameters, *kept])

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state``.

        Raises:
            KeyError: It lacks a parameter of this model.
        """
        for name, parameter in self._named.items():
            moments = {kind: state[f"{name}/{kind}"] for kind in _MOMENTS}
            self._adamw.state[parameter] = {kind: moment.to(parameter.device) for kind, moment in moments.items()}
