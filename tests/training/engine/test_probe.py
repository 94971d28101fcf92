"""The probe tells dependence from rounding: a leak too small to change a bit is found, noise on every value is not."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.builders import documents
from tests.training.models import CONFIGS, adapt, inner, own_logprobs, random_model
from worker.training.engine.attention import PACKED_ATTENTION, _cut
from worker.training.engine.packing import Layout
from worker.training.engine.probe import _PREFIX_LENGTH, choose_forward


class Leak(nn.Module):
    """Adds a trace of the mean over all tokens, of all documents, to what a layer returns."""

    def __init__(self, layer: nn.Module, size: float) -> None:
        super().__init__()
        self.layer = layer
        self.size = size

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.layer(hidden)
        return output + self.size * output.mean(dim=1, keepdim=True)


class Noise(nn.Module):
    """Moves what a layer returns by rounding errors that differ from call to call."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.layer(hidden)
        return output * (1 + 1e-6 * torch.randn(output.shape, generator=self.generator))


def first_mlp(model: Any) -> Any:
    return model.model.layers[0].mlp


def test_a_leak_that_changes_no_bit_is_found() -> None:
    model = random_model("llama")
    rows = documents(9, 14)
    before = torch.cat([own_logprobs(model, row) for row in rows])
    first_mlp(model).down_proj = Leak(first_mlp(model).down_proj, 1e-20)
    assert torch.equal(before, torch.cat([own_logprobs(model, row) for row in rows]))
    probed = choose_forward(model)
    assert not probed.packs
    assert not probed.shares
    assert any("depends on its neighbour's tokens" in text for text in probed.limitations)


def test_rounding_that_differs_from_call_to_call_is_no_leak() -> None:
    model = random_model("llama")
    first_mlp(model).down_proj = Noise(first_mlp(model).down_proj)
    rows = documents(9, 14)
    once, again = (torch.cat([own_logprobs(model, row) for row in rows]) for _ in range(2))
    assert not torch.equal(once, again)
    probed = choose_forward(model)
    assert probed.limitations == ()
    assert probed.packs
    assert probed.shares


@pytest.mark.parametrize("family", CONFIGS)
def test_half_precision_is_packed_shared_and_lent(family: str) -> None:
    model = inner(adapt(random_model(family)).to(dtype=torch.bfloat16))
    probed = choose_forward(model, lends=True)
    assert probed.limitations == ()
    assert probed.packs
    assert probed.shares
    assert probed.lends


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        pytest.param("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "cannot be replaced", id="ALiBi"),
        pytest.param(
            "mamba",
            {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
            "linear_attention",
            id="recurrent",
        ),
    ],
)
def test_the_limitation_says_which_check_failed(family: str, settings: dict[str, Any], reason: str) -> None:
    probed = choose_forward(random_model(family, **settings))
    (limitation,) = probed.limitations
    assert "cannot be packed" in limitation
    assert reason in limitation


def test_a_trained_head_is_told() -> None:
    model = inner(adapt(random_model("llama"), target_modules=["q_proj", "lm_head"]))
    (limitation,) = choose_forward(model).limitations
    assert "trained or no plain linear layer" in limitation


def test_attention_that_goes_wrong_with_shared_keys_alone_falls_back_to_packing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def misaligned(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()

    monkeypatch.setattr("worker.training.engine.attention._band", misaligned)
    probed = choose_forward(random_model("llama"))
    assert probed.packs
    assert not probed.shares
    (limitation,) = probed.limitations
    assert "cannot share their computation" in limitation
    assert "the model's own logits" in limitation


def test_a_leak_where_nothing_is_shared_is_found_although_shared_packs_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def leaking(query: Tensor, key: Tensor, value: Tensor, *, layout: Layout) -> Iterator[tuple[Tensor, ...]]:
        trace = 0.0 if layout.shared else 1e-20 * value.mean(dim=2, keepdim=True)
        yield from _cut(query, key, value + trace, layout=layout)

    monkeypatch.setattr("worker.training.engine.attention._cut", leaking)
    probed = choose_forward(random_model("llama"))
    assert probed.head is not None
    assert not probed.packs
    assert not probed.shares
    (limitation,) = probed.limitations
    assert "depends on its neighbour's tokens" in limitation


def test_what_is_right_at_once_is_not_tried_in_parts() -> None:
    model = random_model("llama")
    runs = []
    first_mlp(model).register_forward_hook(lambda _module, inputs, _output: runs.append(inputs[0].shape[1]))
    assert choose_forward(model).limitations == ()
    own = runs[:2]  # each document by the model's own logits
    assert runs[2:] == [sum(own), sum(own) - _PREFIX_LENGTH]


def test_sharing_can_be_left_out() -> None:
    probed = choose_forward(random_model("llama"), shares=False)
    assert probed.packs
    assert not probed.shares
    assert probed.limitations == ()


def test_the_model_is_left_as_it_was() -> None:
    adapted = adapt(random_model("llama"))
    model = inner(adapted)
    choose_forward(model)
    assert model.config._attn_implementation != PACKED_ATTENTION
    assert not model.get_input_embeddings()._forward_hooks
    assert all(parameter.grad is None for parameter in adapted.parameters())
