"""The language-model head: log-probabilities of given tokens from final hidden states, without keeping logits.

With a frozen head, d(log p_t) / d(hidden_t) = (onehot_t - softmax_t) W: a row that does not depend on the loss. One
chunked pass computes log-probabilities and these rows; backward then only scales the rows by the loss's own gradient.
That is exact for any differentiable function of the log-probabilities.

One buffer holds the logits of a chunk. Everything between its two products happens in place and, on a CPU, in blocks
that stay in the cache: otherwise each of half a dozen passes over the logits goes to memory and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedModel

_CPU_CHUNK_LOGITS = 2**24
_GPU_CHUNK_LOGITS = 2**25
_BLOCK_LOGITS = 2**17  # in float32 half of what a core's second-level cache holds


@dataclass(frozen=True, slots=True)
class Head:
    """logits = softcap * tanh(scale * (hidden W^T + bias) / softcap).

    Attributes:
        weight: [V, D].
        bias: [V] or None (Phi has one).
        scale: Factor on the logits (Cohere, Granite).
        softcap: Bound of the logits or None (Gemma 2, https://arxiv.org/abs/2408.00118).
        chunk_logits: Logits in memory at a time. A constant: the free memory of the day must not decide rounding.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    chunk_logits: int = _CPU_CHUNK_LOGITS

    def score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities float32 [N] of ``targets`` and whether none is likelier, bool [N]."""
        logprobs, hits = _OnePassScore.apply(hidden, targets, self)  # type: ignore[no-untyped-call] # torch's own
        return logprobs, hits


def find_head(model: PreTrainedModel) -> Head | None:
    """Return the frozen linear head of ``model``, or None where it is trained or no plain linear layer."""
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear or any(parameter.requires_grad for parameter in layer.parameters()):
        return None
    softcap = getattr(model.config, "final_logit_softcapping", None)
    chunk = _GPU_CHUNK_LOGITS if layer.weight.is_cuda else _CPU_CHUNK_LOGITS
    return Head(layer.weight, layer.bias, _find_scale(model), softcap, chunk)


def _find_scale(model: PreTrainedModel) -> float:
    divisor = getattr(model.config, "logits_scaling", None)
    factors = (getattr(model.config, name, None) for name in ("logit_scale", "lm_head_multiplier"))
    scale = 1.0 if divisor is None else 1.0 / float(divisor)
    for factor in factors:
        scale *= 1.0 if factor is None else float(factor)
    return scale


class _OnePassScore(torch.autograd.Function):
    """``Head.score`` with the gradient rows computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        count, vocabulary = len(hidden), head.weight.shape[0]
        chunks = max(1, -(-count * vocabulary // head.chunk_logits))
        size = min(count, -(-count // chunks))
        buffer = hidden.new_empty(size, vocabulary)
        logprobs = hidden.new_empty(count, dtype=torch.float32)
        hits = torch.empty_like(logprobs, dtype=torch.bool)
        rows = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, count, max(1, size)):
            part = slice(start, min(start + size, count))
            logits = buffer[: part.stop - start]
            _project(hidden[part], head, logits)
            for block in _blocks(logits):
                own = slice(start + block.start, start + block.stop)
                logprobs[own], hits[own] = _score(logits[block], targets[own], head, with_slopes=rows is not None)
            if rows is not None:
                torch.mm(logits, head.weight, out=rows[part])
        if rows is not None:
            ctx.save_for_backward(rows)
        ctx.mark_non_differentiable(hits)
        return logprobs, hits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return (rows * gradient[:, None]).to(rows.dtype), None, None


def _project(hidden: Tensor, head: Head, logits: Tensor) -> None:
    if head.bias is None:
        torch.mm(hidden, head.weight.T, out=logits)
    else:
        torch.addmm(head.bias, hidden, head.weight.T, out=logits)


def _blocks(logits: Tensor) -> Iterator[slice]:
    count, vocabulary = logits.shape
    size = max(1, _BLOCK_LOGITS // vocabulary) if logits.device.type == "cpu" else count
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _score(logits: Tensor, targets: Tensor, head: Head, *, with_slopes: bool) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and hits [N] of ``targets``; uses up ``logits`` [N, V].

    With ``with_slopes`` they become d(log p) / d(product), product being what the logits were before scale and cap.
    """
    values = logits.float()  # themselves where they are float32
    if head.scale != 1.0:
        values.mul_(head.scale)
    bend = None
    if head.softcap is not None:
        values.div_(head.softcap).tanh_()
        bend = 1 - values.square() if with_slopes else None
        values.mul_(head.softcap)
    chosen = values.gather(1, targets[:, None])
    top = values.amax(dim=1, keepdim=True)
    total = values.sub_(top).exp_().sum(dim=1, keepdim=True)
    if with_slopes:
        values.div_(total / -head.scale)
        values[torch.arange(len(targets), device=targets.device), targets] += head.scale
        if bend is not None:
            values.mul_(bend)
        if values is not logits:
            logits.copy_(values)
    return (chosen - (top + total.log())).squeeze(1), (chosen >= top).squeeze(1)
