"""Adapters through PEFT: attach, save, load. The files are stock `peft` files; equal adapters are equal bytes."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from worker.training.errors import CheckpointError, SpecError
from worker.training.model.lora import FusedLoraLinear
from worker.training.model.target_layers import find_targets

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from worker.training.spec import LoraSettings

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"


def attach_adapter(model: PreTrainedModel, settings: LoraSettings, *, base_model_name: str, seed: int) -> PeftModel:
    """Return ``model`` with a fresh float32 adapter whose effect is zero; nothing but the adapter is trainable.

    Args:
        model: The frozen base model; its layers are replaced in place.
        settings: Shape of the adapter.
        base_model_name: What the adapter's files name as their base.
        seed: Of the adapter's first weights.

    Raises:
        SpecError: ``target_modules`` or ``layers_to_transform`` names no layer of this model, or ``target_modules`` one
            that cannot be adapted.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type] # fractions work, the annotation is too narrow
        lora_dropout=settings.dropout,
        use_rslora=settings.use_rslora,
        **find_targets(model, settings),
        # GPT-2 keeps its weights transposed; PEFT must know, or it warns and guesses.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    config._register_custom_module({nn.Linear: FusedLoraLinear})
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT asks for a property that transformers renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            layers = "'all-linear'" if settings.target_modules == "all-linear" else ", ".join(settings.target_modules)
            raise SpecError(
                f"the base model has no layers to adapt called {layers}; use 'all-linear' or its own module names",
                "adapter.target_modules",
            ) from error
    adapted.peft_config["default"].base_model_name_or_path = base_model_name
    adapted.train(mode=False)
    return adapted


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Write the adapter's configuration and weights into ``folder``."""
    config = adapted.peft_config["default"].to_dict() | {"inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted)  # PEFT's sets have no order of their own
    (folder / ADAPTER_CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in sorted(weights.items())}
    save_file(tensors, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})


def load_adapter(adapted: PeftModel, folder: Path) -> None:
    """Set the attached adapter's weights to those in ``folder``.

    Raises:
        CheckpointError: They do not fit the attached adapter.
    """
    weights = load_file(folder / ADAPTER_WEIGHTS_FILE)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if {name: tensor.shape for name, tensor in weights.items()} != {n: tensor.shape for n, tensor in expected.items()}:
        raise CheckpointError("the checkpoint's adapter has other layers or ranks than this job's; start without it")
    set_peft_model_state_dict(adapted, weights)
