"""A choice of layers is PEFT's own, and what lies below the lowest of them is run without a graph."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from tests.training.builders import documents
from tests.training.models import CONFIGS, adapt, gradients, inner, own_logprobs, random_model, reload_in_peft
from worker.training.engine.probe import choose_forward
from worker.training.errors import SpecError
from worker.training.model.adapter import attach_adapter, save_adapter
from worker.training.model.decoder_layers import find_decoder_layers
from worker.training.spec import LoraSettings

LAYERS = {"n_layer": 3}, {"num_hidden_layers": 3}
ROWS = documents(9, 14)


def three_layers(family: str) -> Any:
    return random_model(family, **LAYERS[family != "gpt2"])


def trained(adapted: PeftModel) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}


def plain(adapted: PeftModel, family: str) -> PeftModel:
    """Return a stock PEFT model of the same layers and weights."""
    config = adapted.peft_config["default"]
    assert isinstance(config, LoraConfig)
    options = {"target_modules": sorted(config.target_modules or ()), "layers_to_transform": config.layers_to_transform}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses a name that transformers deprecated, and guesses transposed weights
        stock = get_peft_model(three_layers(family), LoraConfig(r=4, lora_alpha=32, **options))  # type: ignore[arg-type]
    for name, parameter in trained(stock).items():
        parameter.data.copy_(adapted.get_parameter(name))
    stock.train(mode=False)
    return stock


@pytest.mark.parametrize("family", CONFIGS)
def test_gradients_are_those_of_plain_peft(family: str) -> None:
    adapted = adapt(three_layers(family), layers_to_transform=[-1, 1])
    stock = plain(adapted, family)
    torch.autograd.backward(torch.cat([own_logprobs(inner(stock), row) for row in ROWS]).sum())
    expected = gradients(stock)
    forward = choose_forward(inner(adapted))
    with forward.attention():
        torch.autograd.backward(forward.score(ROWS).logprobs.sum())
    found = gradients(adapted)
    assert found.keys() == expected.keys() == trained(adapted).keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_layers_below_the_lowest_trained_one_keep_nothing(family: str) -> None:
    adapted = adapt(three_layers(family), layers_to_transform=[1, 2])
    kept: list[int] = [0]
    counts: list[int] = []
    graphs: list[bool] = []

    def keep(tensor: Tensor) -> Tensor:
        kept[0] += 1
        return tensor

    forward = choose_forward(inner(adapted))
    for layer in find_decoder_layers(adapted):
        layer.register_forward_pre_hook(lambda *_: kept.__setitem__(0, 0))
        layer.register_forward_hook(lambda _module, _inputs, output: graphs.append(output.requires_grad))
        layer.register_forward_hook(lambda *_: counts.append(kept[0]))
    with forward.attention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward.score(ROWS)
    assert counts[0] == 0
    assert min(counts[1:]) > 0
    assert graphs == [False, True, True]


def test_the_files_say_which_layers_and_load_in_plain_peft(tmp_path: Path) -> None:
    adapted = adapt(three_layers("llama"), layers_to_transform=[-1])
    assert {name.split("layers.")[1][0] for name in trained(adapted)} == {"2"}
    save_adapter(adapted, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["layers_to_transform"], config["layers_pattern"]) == ([2], "layers")
    ids = torch.arange(1, 30)[None]
    with torch.inference_mode():
        found = reload_in_peft(three_layers("llama"), tmp_path)(input_ids=ids).logits
        assert torch.equal(found, adapted(input_ids=ids).logits)


def test_names_and_layers_go_together() -> None:
    adapted = adapt(three_layers("llama"), target_modules=["q_proj", "mlp.up_proj"], layers_to_transform=[0, 2, -1])
    named = {name.split(".lora_")[0].split("layers.")[1] for name in trained(adapted)}
    assert named == {"0.self_attn.q_proj", "0.mlp.up_proj", "2.self_attn.q_proj", "2.mlp.up_proj"}


@pytest.mark.parametrize(
    ("settings", "param", "message"),
    [
        ({"layers_to_transform": [3]}, "layers_to_transform", "3 decoder layers, so there is no layer 3"),
        ({"layers_to_transform": [-4]}, "layers_to_transform", "no layer -4"),
        ({"layers_to_transform": [0], "target_modules": ["lm_head"]}, "target_modules", "lm_head lies in none"),
        (
            {"layers_to_transform": [0], "target_modules": ["model.layers.1.mlp.up_proj"]},
            "target_modules",
            "lies in none",
        ),
    ],
)
def test_choices_that_the_model_cannot_meet_are_refused(settings: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        attach_adapter(three_layers("llama"), LoraSettings(**settings), base_model_name="tiny", seed=0)
    assert caught.value.param == f"adapter.{param}"


def test_a_model_whose_layers_are_not_known_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3))
    settings = LoraSettings(layers_to_transform=[0])
    with pytest.raises(SpecError, match="not known as such"):
        attach_adapter(model, settings, base_model_name="tiny", seed=0)  # type: ignore[arg-type]
