"""The language-model head: log-probabilities of given tokens from final hidden states, without keeping logits.

With a frozen head, d(log p_t) / d(hidden_t) = (onehot_t - softmax_t) W: a row that does not depend on the loss. One
chunked pass computes log-probabilities and these rows; backward then only scales the rows by the loss's own gradient.
That is exact for any differentiable function of the log-probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Head:
    """logits = softcap * tanh(scale * (hidden W^T + bias) / softcap).

    Attributes:
        weight: [V, D].
        bias: [V] or None (Phi has one).
        scale: Factor on the logits (Cohere, Granite).
        softcap: Bound of the logits or None (Gemma 2, https://arxiv.org/abs/2408.00118).
        chunk_logits: Logits in memory at a time.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    chunk_logits: int = 2**25

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [N, V] of ``hidden`` [N, D]."""
        logits = nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities float32 [N] of ``targets`` and whether each is the likeliest token, bool [N]."""
        logprobs, hits = _OnePassScore.apply(hidden, targets, self)  # type: ignore[no-untyped-call] # torch's own
        return logprobs, hits


def find_head(model: PreTrainedModel) -> Head | None:
    """Return the frozen linear head of ``model``, or None where it is trained or no plain linear layer."""
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear or any(parameter.requires_grad for parameter in layer.parameters()):
        return None
    return Head(layer.weight, layer.bias, _find_scale(model), getattr(model.config, "final_logit_softcapping", None))


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
        chunk = max(1, head.chunk_logits // head.weight.shape[0])
        with_rows = ctx.needs_input_grad[0]
        logprobs, hits, rows = [], [], []
        for part, wanted in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True):
            logits = head.logits(part)
            chosen = logits.gather(1, wanted[:, None]).squeeze(1)
            normalizer = logits.logsumexp(dim=1)
            logprobs.append(chosen - normalizer)
            hits.append(logits.argmax(dim=1) == wanted)
            if with_rows:
                rows.append(_gradient_rows(logits, normalizer, wanted, head))
        if with_rows:
            ctx.save_for_backward(torch.cat(rows))
        found = torch.cat(hits)
        ctx.mark_non_differentiable(found)
        return torch.cat(logprobs), found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return (rows * gradient[:, None]).to(rows.dtype), None, None


def _gradient_rows(logits: Tensor, normalizer: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Return d(log p) / d(hidden) [N, D]; uses up ``logits`` [N, V]."""
    slope = None if head.softcap is None else 1 - (logits / head.softcap).square()
    difference = logits.sub_(normalizer[:, None]).exp_().neg_()
    difference[torch.arange(len(targets), device=targets.device), targets] += 1
    if slope is not None:
        difference *= slope
    if head.scale != 1.0:
        difference *= head.scale
    return difference.to(head.weight.dtype) @ head.weight
