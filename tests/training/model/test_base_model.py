import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, BertModel, T5Config, T5ForConditionalGeneration

from tests.fixtures.tiny_models import FAMILIES, VOCABULARY, TinyModel, build_tokenizer, reference_to
from worker.training.errors import BaseModelError, SpecError
from worker.training.model.base_model import find_device, find_dtype, load_base_model
from worker.training.spec import RuntimeSettings

CPU = RuntimeSettings(device="cpu", dtype="float32")
_BERT = BertConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    initializer_range=0.5,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_frozen_in_eval_mode(tiny_model: TinyModel, family: str) -> None:
    loaded = load_base_model(reference_to(tiny_model(family)), CPU)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training
    assert (loaded.context_length, loaded.dtype, loaded.device.type) == (512, torch.float32, "cpu")
    assert loaded.parameters == sum(parameter.numel() for parameter in loaded.model.parameters())


def test_weights_take_the_dtype_asked_for(tiny_model: TinyModel) -> None:
    loaded = load_base_model(reference_to(tiny_model()), RuntimeSettings(device="cpu", dtype="bfloat16"))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}


def test_an_altered_model_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model(), tmp_path / "model"))
    ref = reference_to(folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(1, 1))
    with pytest.raises(BaseModelError, match="changed since it was registered"):
        load_base_model(ref, CPU)


def test_a_missing_model_is_refused(tiny_model: TinyModel) -> None:
    ref = reference_to(tiny_model()).model_copy(update={"path": "/nowhere"})
    with pytest.raises(BaseModelError, match="/nowhere does not exist"):
        load_base_model(ref, CPU)


@pytest.mark.parametrize(
    "model",
    [
        BertModel(_BERT),
        T5ForConditionalGeneration(
            T5Config(vocab_size=VOCABULARY, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)
        ),
    ],
    ids=["encoder", "encoder-decoder"],
)
def test_models_that_are_not_decoder_only_are_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    save(model, tmp_path)
    with pytest.raises(BaseModelError, match="only decoder-only"):
        load_base_model(reference_to(tmp_path), CPU)


def test_an_encoder_that_calls_itself_a_language_model_is_refused(tmp_path: Path) -> None:
    save(BertLMHeadModel(_BERT), tmp_path)
    with pytest.raises(BaseModelError, match="attends to later tokens"):
        load_base_model(reference_to(tmp_path), CPU)


def test_a_broken_config_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model(), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-thing"}))
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_base_model(reference_to(folder), CPU)


def test_devices_and_dtypes_resolve() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_dtype("auto", torch.device("cpu")) in {torch.bfloat16, torch.float32}
    with pytest.raises(SpecError, match="no device called toaster"):
        find_device("toaster")
    with pytest.raises(SpecError, match="not available"):
        find_device("cuda:99")


def test_the_command_is_offline_before_transformers_is_loaded() -> None:
    program = "import worker.training.__main__; from huggingface_hub import constants; assert constants.HF_HUB_OFFLINE"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0


def save(model: torch.nn.Module, folder: Path) -> None:
    model.save_pretrained(folder)  # type: ignore[operator]  # a transformers model is no plain module
    build_tokenizer().save_pretrained(folder)
