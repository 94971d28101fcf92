from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.models import adapt, inner, random_model
from worker.training.engine.head import Head, find_head

N, D, V = 11, 8, 50


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": draw(V, seed=1)},
    "softcap": {"softcap": 1.5},
    "scale": {"scale": 0.3},
    "all, in chunks of three rows": {"bias": draw(V, seed=1), "softcap": 1.5, "scale": 2.0, "chunk_logits": 3 * V},
    "one row at a time": {"chunk_logits": 1},
}


def logits_of(head: Head, hidden: Tensor) -> Tensor:
    """Return the logits as the definition has them, for autograd."""
    logits = head.scale * nn.functional.linear(hidden, head.weight, head.bias)
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "likelihood": lambda x: -x.mean(),
    "unlikelihood": lambda x: -torch.log1p(-x.exp()).sum(),
    "nonlinear": lambda x: (x.logsumexp(0) * x.std()).sin(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS.keys())
def test_scores_and_gradients_are_those_of_autograd(options: dict[str, Any], loss: Callable[[Tensor], Tensor]) -> None:
    head = Head(draw(V, D, seed=2), **options)
    targets = torch.arange(N) * 4
    plain, fast = draw(N, D).requires_grad_(), draw(N, D).requires_grad_()
    expected = logits_of(head, plain).log_softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    found, hits = head.score(fast, targets)
    torch.testing.assert_close(found, expected)
    assert torch.equal(hits, logits_of(head, plain).argmax(dim=1) == targets)
    torch.autograd.backward([loss(expected), loss(found)])
    torch.testing.assert_close(fast.grad, plain.grad, rtol=1e-5, atol=1e-6)


def test_tokens_without_weight_get_no_gradient() -> None:
    hidden = draw(N, D).requires_grad_()
    logprobs, _ = Head(draw(V, D, seed=2)).score(hidden, torch.arange(N))
    torch.autograd.backward((logprobs * (torch.arange(N) == 3)).sum())
    assert hidden.grad is not None
    assert hidden.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [3]


def test_bfloat16_hidden_states_keep_float32_logprobs() -> None:
    hidden = draw(N, D).bfloat16().requires_grad_()
    logprobs, _ = Head(draw(V, D, seed=2).bfloat16()).score(hidden, torch.arange(N))
    torch.autograd.backward(logprobs.sum())
    assert logprobs.dtype == torch.float32
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16


def test_a_trained_head_is_not_taken() -> None:
    model = random_model("llama")
    assert find_head(model) is not None
    model.get_output_embeddings().weight.requires_grad_()
    assert find_head(model) is None
    assert find_head(inner(adapt(random_model("llama"), target_modules=["lm_head"]))) is None
