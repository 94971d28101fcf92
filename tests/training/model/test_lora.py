"""The fused layer against PEFT's own: same output, same gradients, and PEFT's code wherever fusing does not apply."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from worker.training.model.lora import FusedLoraLinear, describe_unfused


class Layer(nn.Module):
    def __init__(self, *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(24, 40, bias=bias).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x)
        return output


def adapted(*, fused: bool, bias: bool = False, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    layer = Layer(bias=bias, dtype=dtype)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["linear"], **settings}
    config = LoraConfig(**options)
    if fused:
        config._register_custom_module({nn.Linear: FusedLoraLinear})
    model = get_peft_model(layer, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return output and gradients of input and adapter."""
    given = x.clone().requires_grad_()
    output = model(given)
    wanted = [given, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    direction = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype)
    return output.detach(), list(torch.autograd.grad(output, wanted, direction))


def is_fused(output: Tensor) -> bool:
    return "_FusedLinear" in str(output.grad_fn)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24)])
def test_equals_peft_in_float32(shape: tuple[int, ...], *, bias: bool) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    output, gradients = run(adapted(fused=True, bias=bias), x)
    expected, expected_gradients = run(adapted(fused=False, bias=bias), x)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_it_errs_no_more_than_bfloat16_does() -> None:
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(2))
    exact, exact_gradients = run(adapted(fused=False), x)
    halves, half_gradients = run(adapted(fused=True, dtype=torch.bfloat16), x.bfloat16())
    assert {gradient.dtype for gradient in half_gradients[1:]} == {torch.float32}
    for found, wanted in zip([halves, *half_gradients], [exact, *exact_gradients], strict=True):
        assert (found.float() - wanted).norm() < 0.02 * wanted.norm()


def test_the_first_layer_needs_no_gradient_of_its_input() -> None:
    model = adapted(fused=True)
    output = model(torch.randn(3, 24))
    assert is_fused(output)
    torch.autograd.backward(output.sum())
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_a_switched_off_adapter_has_no_effect() -> None:
    model = adapted(fused=True)
    x = torch.randn(3, 24)
    layer = next(module for module in model.modules() if isinstance(module, PeftLinear))
    layer.enable_adapters(enabled=False)
    torch.testing.assert_close(model(x), layer.get_base_layer()(x))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"lora_dropout": 0.5}, "dropout"),
        ({"use_dora": True}, "DoraLinearVariant"),
        ({"lora_bias": True}, "bias of the adapter"),
    ],
    ids=["dropout", "DoRA", "bias"],
)
def test_other_forms_run_pefts_own_code_and_are_told(settings: dict[str, Any], reason: str) -> None:
    model = adapted(fused=True, bias=True, **settings)
    model.train()
    assert not is_fused(model(torch.randn(3, 24)))
    (told,) = describe_unfused(model)
    assert told == f"1 of 1 adapted layers run PEFT's own code ({reason}): expect slower training."


def test_a_trained_bias_of_the_base_layer_gets_its_gradient() -> None:
    model = adapted(fused=True, bias=True)
    layer = next(module for module in model.modules() if isinstance(module, PeftLinear))
    layer.base_layer.bias.requires_grad_()
    output = model(torch.randn(3, 24))
    assert not is_fused(output)
    torch.autograd.backward(output.sum())
    assert layer.base_layer.bias.grad is not None
    (told,) = describe_unfused(model)
    assert "(trained base layer)" in told


@pytest.mark.parametrize("target", ["table", "turned"])
def test_layers_of_other_kinds_are_told(target: str) -> None:
    model = nn.Module()
    model.table, model.turned = nn.Embedding(7, 24), Conv1D(40, 24)
    peft = get_peft_model(model, LoraConfig(target_modules=[target], fan_in_fan_out=True))
    (told,) = describe_unfused(peft)
    assert {"table": "adapter of the kind Embedding", "turned": "base layer of the kind Conv1D"}[target] in told


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "r": 8}], ids=["plain", "rsLoRA"])
def test_nothing_is_told_of_what_is_fused(settings: dict[str, Any]) -> None:
    model = adapted(fused=True, **settings)
    x = torch.randn(3, 24)
    assert is_fused(model(x))
    torch.testing.assert_close(model(x), adapted(fused=False, **settings)(x), rtol=1e-5, atol=1e-6)
    assert describe_unfused(model) == []


def test_dropout_matters_in_training_alone() -> None:
    model = adapted(fused=True, lora_dropout=0.5)
    model.eval()
    assert is_fused(model(torch.randn(3, 24)))
