"""A low-rank linear layer as one autograd node: what PEFT's does, with fewer passes over memory.

PEFT's layer runs its branch in the adapter's float32, so that a bfloat16 activation is copied up, and the output
scaled, added and copied down, each in a pass of its own; autograd keeps the float32 copy. Here the branch runs in the
base layer's precision, is added by the second product itself, and only the input and its rank-r image are kept. The
gradient of the frozen weight is never formed (4 instead of 6 FLOPs a parameter and token).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor


class FusedLoraLinear(PeftLinear):
    """PEFT's layer with a fused forward and backward pass for one plain adapter.

    Whatever else PEFT can do (see ``find_peculiarity``), and dropout in training, runs PEFT's own code.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output [..., out] for ``x`` [..., in]."""
        name = self._sole_adapter()
        if name is None or args or kwargs or x.dtype != self.base_layer.weight.dtype:
            return super().forward(x, *args, **kwargs)
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        base = cast("nn.Linear", self.base_layer)
        frozen = _Frozen(base.weight, base.bias, self.scaling[name])
        output: Tensor = _FusedLinear.apply(x, down, up, frozen)  # type: ignore[no-untyped-call]
        return output

    def _sole_adapter(self) -> str | None:
        """Return the adapter to fuse, None where PEFT's own code has to run."""
        if self.disable_adapters or find_peculiarity(self) is not None:
            return None
        name: str = self.active_adapters[0]
        dropout = self.lora_dropout[name]
        return None if dropout.training and not isinstance(dropout, nn.Identity) else name


def find_peculiarity(layer: PeftLinear) -> str | None:
    """Return what ``layer`` is beside a frozen linear layer and one low-rank product; None: nothing.

    Dropout is none: it is active in training alone. Nor is a scale of another rule, such as that of rsLoRA.
    """
    names, base = layer.active_adapters, layer.base_layer
    if layer.merged or len(names) != 1 or names[0] not in layer.lora_A:
        return "other than one adapter beside the base layer"
    name = names[0]
    if name in layer.lora_variant:
        return type(layer.lora_variant[name]).__name__
    if type(base) is not nn.Linear or layer.fan_in_fan_out:
        return f"base layer of the kind {type(base).__name__}"
    if layer.lora_A[name].bias is not None or layer.lora_B[name].bias is not None:
        return "bias of the adapter"
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return "trained base layer"
    return None


def describe_unfused(adapted: nn.Module) -> list[str]:
    """Return a sentence for every reason why layers of ``adapted`` are not fused in training, with their number."""
    layers = [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
    reasons = Counter(_find_reason(layer) for layer in layers)
    return [
        f"{count} of {len(layers)} adapted layers run PEFT's own code ({reason}): expect slower training."
        for reason, count in reasons.items()
        if reason is not None
    ]


def _find_reason(layer: BaseTunerLayer) -> str | None:
    if not isinstance(layer, PeftLinear):
        return f"adapter of the kind {type(layer).__name__}"
    drops = any(not isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values())
    return find_peculiarity(layer) or ("dropout" if drops else None)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """What a layer computes with and no gradient is wanted for: weight [out, in], bias [out], alpha / r."""

    weight: Tensor
    bias: Tensor | None
    scaling: float


class _FusedLinear(torch.autograd.Function):
    """y = x W^T + bias + s (x A^T) B^T; gradients for x, A (``down``, [r, in]) and B (``up``, [out, r])."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, frozen: _Frozen) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down, up = down.to(x.dtype), up.to(x.dtype)
        image = rows @ down.T  # [T, r]
        weight, bias = frozen.weight, frozen.bias
        output = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        output.addmm_(image, up.T, alpha=frozen.scaling)
        ctx.save_for_backward(rows, image, down, up)
        ctx.frozen, ctx.shape = frozen, x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, image, down, up = ctx.saved_tensors
        weight, scaling = ctx.frozen.weight, ctx.frozen.scaling
        rising = gradient.reshape(-1, gradient.shape[-1])
        through = (rising @ up).mul_(scaling)  # [T, r]
        of_up = (rising.T @ image).float().mul_(scaling)
        of_down = (through.T @ rows).float()
        of_input = (rising @ weight).addmm_(through, down).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return of_input, of_down, of_up, None
