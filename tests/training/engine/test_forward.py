"""Packed, padded and one-by-one scoring agree for every family; one-pass gradients are those of autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.training.builders import documents
from tests.training.models import CONFIGS, adapt, gradients, inner, own_logprobs, random_model
from worker.training.engine.attention import PACKED_ATTENTION
from worker.training.engine.forward import Forward
from worker.training.engine.probe import choose_forward
from worker.training.types import TokenSequence

LENGTHS = (9, 40, 3, 23)


def padded_logprobs(model: PreTrainedModel, rows: list[TokenSequence]) -> Tensor:
    longest = max(len(row.input_ids) for row in rows)
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.input_ids)] = torch.from_numpy(row.input_ids)
        mask[index, : len(row.input_ids)] = 1
    logprobs = model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(dim=-1)
    targets = logprobs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
    return torch.cat([targets[index, torch.from_numpy(row.scored).long() - 1] for index, row in enumerate(rows)])


@pytest.mark.parametrize("family", CONFIGS)
def test_packed_equals_padded_equals_one_by_one(family: str) -> None:
    model = inner(adapt(random_model(family)))
    rows = documents(*LENGTHS)
    forward = choose_forward(model)
    assert forward.packs
    assert forward.head is not None
    with torch.inference_mode():
        alone = torch.cat([own_logprobs(model, row) for row in rows])
        padded = padded_logprobs(model, rows)
        with forward.attention():
            found = forward.score(rows)
    torch.testing.assert_close(found.logprobs, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.logprobs, padded, rtol=0, atol=1e-5)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "weighted likelihood": lambda x: -(torch.linspace(0, 2, len(x)) * x).sum(),
    "unlikelihood": lambda x: -torch.log1p(-x.exp()).sum(),
    "nonlinear in all tokens": lambda x: torch.tanh(x.mean()) ** 2 + (x[0] * x[-1]).sigmoid() + x.logsumexp(0),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi", "gpt2", "mistral"])
def test_one_pass_gradients_are_those_of_autograd(family: str, loss: Callable[[Tensor], Tensor]) -> None:
    adapted = adapt(random_model(family))
    model, rows = inner(adapted), documents(*LENGTHS)
    torch.autograd.backward(loss(torch.cat([own_logprobs(model, row) for row in rows])))
    expected = gradients(adapted)
    forward = choose_forward(model)
    with forward.attention():
        torch.autograd.backward(loss(forward.score(rows).logprobs))
    found = gradients(adapted)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("family", CONFIGS)
def test_gradients_reach_the_adapter_and_nothing_else(family: str) -> None:
    adapted = adapt(random_model(family))
    forward = choose_forward(inner(adapted))
    with forward.attention():
        torch.autograd.backward(forward.score(documents(12, 7)).logprobs.sum())
    for name, parameter in adapted.named_parameters():
        assert ("lora_" in name) == (parameter.grad is not None), name


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        pytest.param("cohere", {"logit_scale": 0.25}, id="scale"),
        pytest.param("granite", {"logits_scaling": 4.0}, id="divisor"),
        pytest.param("gemma2", {"final_logit_softcapping": 0.2}, id="tight softcap"),
    ],
)
def test_scaled_and_capped_heads(family: str, settings: dict[str, Any]) -> None:
    sizes = {**CONFIGS["llama"], **CONFIGS.get(family, {}), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    model = random_model(family, **sizes, **settings)
    forward = choose_forward(model)
    rows = documents(9, 14)
    assert forward.head is not None
    with torch.inference_mode(), forward.attention():
        found = forward.score(rows).logprobs
    with torch.inference_mode():
        torch.testing.assert_close(found, torch.cat([own_logprobs(model, row) for row in rows]), rtol=0, atol=1e-5)


def test_a_trained_head_falls_back_to_autograd_through_the_models_own_logits() -> None:
    adapted = adapt(random_model("llama"), target_modules=["q_proj", "lm_head"])
    model, rows = inner(adapted), documents(9, 14)
    forward = choose_forward(model)
    assert forward.packs
    assert forward.head is None
    with forward.attention():
        torch.autograd.backward(forward.score(rows).logprobs.sum())
    found = gradients(adapted)
    torch.autograd.backward(torch.cat([own_logprobs(model, row) for row in rows]).sum())
    for name, gradient in gradients(adapted).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        pytest.param("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, id="ALiBi, no position ids"),
        pytest.param("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, id="recurrent"),
    ],
)
def test_models_that_cannot_be_packed_run_one_document_at_a_time(family: str, settings: dict[str, Any]) -> None:
    model = random_model(family, **settings)
    forward = choose_forward(model)
    assert not forward.packs
    rows = documents(9, 14)
    with torch.inference_mode(), forward.attention():
        found = forward.score(rows).logprobs
        torch.testing.assert_close(found, torch.cat([own_logprobs(model, row) for row in rows]), rtol=0, atol=1e-5)


def test_documents_do_not_see_each_other() -> None:
    forward = choose_forward(random_model("qwen3"))
    first, second = documents(20, 15)
    other = documents(20, seed=9)[0]
    with torch.inference_mode(), forward.attention():
        one, two = (forward.score([neighbour, second]).logprobs[-13:] for neighbour in (first, other))
    assert torch.equal(one, two)


def test_the_models_own_attention_is_back_outside() -> None:
    model = random_model("llama")
    forward = choose_forward(model)
    with forward.attention():
        assert model.config._attn_implementation == PACKED_ATTENTION
    assert model.config._attn_implementation == "sdpa"


def test_hits_and_hidden_states_belong_to_the_predicting_positions() -> None:
    model = random_model("llama")
    rows = documents(9, 14)
    forward, slow = choose_forward(model), Forward(model, packs=False, head=None)
    with torch.inference_mode():
        expected = slow.score(rows)
        with forward.attention():
            found = forward.score(rows)
    assert torch.equal(found.hits, expected.hits)
    torch.testing.assert_close(found.hidden, expected.hidden)
