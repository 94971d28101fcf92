import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tests.training.models import CONFIGS, adapt, inner, random_model, reload_in_peft
from worker.training.errors import CheckpointError, SpecError
from worker.training.model.adapter import attach_adapter, load_adapter, save_adapter
from worker.training.spec import LoraSettings

IDS = torch.arange(1, 30)[None]


def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("family", CONFIGS)
def test_saved_adapter_gives_identical_logits_in_plain_peft(tmp_path: Path, family: str) -> None:
    adapted = adapt(random_model(family))
    save_adapter(adapted, tmp_path)
    reloaded = reload_in_peft(random_model(family), tmp_path)
    assert torch.equal(logits(reloaded), logits(adapted))
    assert not torch.equal(logits(adapted), logits(random_model(family)))


@pytest.mark.parametrize("family", CONFIGS)
def test_all_linear_adapts_every_linear_layer_but_the_head(family: str) -> None:
    adapted = adapt(random_model(family))
    named = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len({name.rpartition(".lora_")[0] for name in named}) % 2 == 0
    assert not any("lm_head" in name or "embed" in name or "wte" in name for name in named)
    assert type(inner(adapted).get_output_embeddings()) is torch.nn.Linear


def test_a_fresh_adapter_changes_nothing_and_is_float32_on_a_bfloat16_base() -> None:
    model = random_model("llama")
    model.bfloat16()
    before = logits(model)
    adapted = attach_adapter(model, LoraSettings(), base_model_name="tiny", seed=0)
    assert torch.equal(logits(adapted), before)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in adapted.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_first_weights_depend_on_the_seed_alone() -> None:
    def first(seed: int) -> torch.Tensor:
        adapted = attach_adapter(random_model("llama"), LoraSettings(), base_model_name="tiny", seed=seed)
        return torch.cat([p.flatten() for p in adapted.parameters() if p.requires_grad])

    torch.manual_seed(11)
    one = first(0)
    state = torch.get_rng_state()
    assert torch.equal(one, first(0))
    assert not torch.equal(one, first(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_files_name_the_base_model_and_do_not_depend_on_the_order_of_sets(tmp_path: Path) -> None:
    save_adapter(adapt(random_model("llama")), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["inference_mode"] is True
    assert config["target_modules"] == sorted(config["target_modules"])


@pytest.mark.parametrize("names", [["no_such_layer"], ["norm"]])
def test_layers_that_cannot_be_adapted_are_refused(names: list[str]) -> None:
    with pytest.raises(SpecError, match=names[0]) as caught:
        attach_adapter(random_model("llama"), LoraSettings(target_modules=names), base_model_name="tiny", seed=0)
    assert caught.value.param == "adapter.target_modules"


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_adapter(adapt(random_model("llama"), r=8), tmp_path)
    with pytest.raises(CheckpointError):
        load_adapter(adapt(random_model("llama"), r=4), tmp_path)
