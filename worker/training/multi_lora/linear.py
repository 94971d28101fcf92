"""A linear layer for packs of several adapters: one product with the frozen weight, low-rank branches by segment.

y = x W^T + bias for the whole pack; rows of a segment get s (x A^T) B^T of their own adapter on top. Rows of one
segment never meet numbers of another: matrix products mix columns, not rows, and A and B see their own rows only. A NaN
of one run therefore stays in its rows, forward and backward.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout as drop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from peft.tuners.lora import Linear as LoraLinear
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """The contiguous rows of a pack that belong to one run.

    Attributes:
        rows: Of the pack [T, D].
        read: Of its rows that are read [M, D], which are all that a narrowed layer gets; M < T then.
        total: T.
        layers: The run's adapted layers by their name in the model; layers that it does not adapt are absent.
        randomly: Context in which the run's own random generators are the process's.
    """

    rows: slice
    read: slice
    total: int
    layers: Mapping[str, LoraLinear]
    randomly: Callable[[], AbstractContextManager[None]]


_current_segments: ContextVar[Sequence[Segment]] = ContextVar("current_segments", default=())


@contextmanager
def segmented(segments: Sequence[Segment]) -> Iterator[None]:
    """Tell the linear layers of the forward pass inside which rows belong to which adapter."""
    token = _current_segments.set(segments)
    try:
        yield
    finally:
        _current_segments.reset(token)


class SegmentedLinear(nn.Linear):
    """The layer ``name`` of a frozen model, with the adapters of the current segments.

    Args:
        name: Of the layer in its model.
        frozen: The layer; its weight is shared, not copied.
    """

    def __init__(self, name: str, frozen: nn.Linear) -> None:
        nn.Module.__init__(self)  # the weight is there already
        self.name = name
        self.in_features, self.out_features = frozen.in_features, frozen.out_features
        self.weight, self.bias = frozen.weight, frozen.bias

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out] for ``input`` [..., in]."""
        found = [_branch(segment, self.name, input) for segment in _current_segments.get()]
        branches = [branch for branch in found if branch is not None]
        if not branches:
            return nn.functional.linear(input, self.weight, self.bias)
        weights = [weight for branch in branches for weight in (branch.down, branch.up)]
        frozen = _Frozen(self.weight, self.bias, branches)
        output: Tensor = _SegmentedProduct.apply(input, frozen, *weights)  # type: ignore[no-untyped-call] # torch's own
        return output


@dataclass(frozen=True, slots=True)
class _Branch:
    """The low-rank part of one segment: A [r, in], B [out, r], alpha / r, scaled dropout mask [rows, in] or None."""

    rows: slice
    down: Tensor
    up: Tensor
    scaling: float
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class _Frozen:
    """What no gradient is wanted for: weight [out, in], bias [out], and where the branches lie."""

    weight: Tensor
    bias: Tensor | None
    branches: Sequence[_Branch]


def _branch(segment: Segment, name: str, x: Tensor) -> _Branch | None:
    layer = segment.layers.get(name)
    if layer is None or layer.disable_adapters:
        return None
    rows = segment.rows if x.shape[-2] == segment.total else segment.read
    adapter = layer.active_adapters[0]
    dropout, mask = layer.lora_dropout[adapter], None
    if dropout.training and isinstance(dropout, nn.Dropout):
        # In float32 like the adapter, so that the same numbers are drawn as when the run is alone.
        whole = torch.ones(rows.stop - rows.start, x.shape[-1], device=x.device)
        with segment.randomly():
            mask = drop(whole, dropout.p).to(x.dtype)
    down, up = cast("Tensor", layer.lora_A[adapter].weight), cast("Tensor", layer.lora_B[adapter].weight)
    return _Branch(rows, down, up, layer.scaling[adapter], mask)


class _SegmentedProduct(torch.autograd.Function):
    """Gradients for x and for A and B of every branch, in this order: A, B, A, B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: _Frozen, *weights: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weight, bias = frozen.weight, frozen.bias
        output = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        factors, images = [one.to(x.dtype) for one in weights], []
        for branch, down, up in zip(frozen.branches, factors[::2], factors[1::2], strict=True):
            image = _masked(rows[branch.rows], branch.mask) @ down.T  # [rows, r]
            output[branch.rows].addmm_(image, up.T, alpha=branch.scaling)
            images.append(image)
        ctx.save_for_backward(rows, *factors, *images)
        ctx.frozen, ctx.shape = frozen, x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        branches: Sequence[_Branch] = ctx.frozen.branches
        rows, *saved = ctx.saved_tensors
        factors, images = saved[: 2 * len(branches)], saved[2 * len(branches) :]
        rising = gradient.reshape(-1, gradient.shape[-1])
        of_input = rising @ ctx.frozen.weight if ctx.needs_input_grad[0] else None
        of_weights: list[Tensor] = []
        for branch, down, up, image in zip(branches, factors[::2], factors[1::2], images, strict=True):
            own = rising[branch.rows]
            through = (own @ up).mul_(branch.scaling)  # [rows, r]
            of_weights.append((through.T @ _masked(rows[branch.rows], branch.mask)).float())
            of_weights.append((own.T @ image).float().mul_(branch.scaling))
            if of_input is not None:
                _add_product(of_input[branch.rows], through, down, branch.mask)
        return None if of_input is None else of_input.view(ctx.shape), None, *of_weights


def _masked(rows: Tensor, mask: Tensor | None) -> Tensor:
    return rows if mask is None else rows * mask


def _add_product(target: Tensor, through: Tensor, down: Tensor, mask: Tensor | None) -> None:
    """Add (``through`` @ ``down``) * ``mask`` to ``target`` in place."""
    if mask is None:
        target.addmm_(through, down)
    else:
        target.addcmul_(through @ down, mask)
