"""Random models of all families, built in memory, with adapters that have an effect."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.fixtures.tiny_models import FAMILIES, VOCABULARY
from worker.training.model.adapter import attach_adapter
from worker.training.spec import LoraSettings
from worker.training.types import TokenSequence

# Mistral's window must bite: documents in tests are longer.
CONFIGS: Mapping[str, Mapping[str, Any]] = {**FAMILIES, "mistral": {**FAMILIES["mistral"], "sliding_window": 8}}


def random_model(family: str = "llama", **overrides: Any) -> PreTrainedModel:
    """Return a frozen float32 model of ``family`` in eval mode."""
    config = AutoConfig.for_model(family, **{**CONFIGS.get(family, {}), "vocab_size": VOCABULARY, **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.requires_grad_(False)
    model.train(mode=False)
    return model


def adapt(model: PreTrainedModel, **settings: Any) -> PeftModel:
    """Return ``model`` with an adapter whose every weight is random."""
    adapted = attach_adapter(model, LoraSettings(**{"r": 4, **settings}), base_model_name="tiny", seed=0)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1, generator=generator)
    return adapted


def inner(adapted: PeftModel) -> PreTrainedModel:
    """Return the language model that carries the adapter's layers."""
    model = adapted.get_base_model()
    assert isinstance(model, PreTrainedModel)
    return model


def reload_in_peft(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Return ``model`` with the adapter saved in ``folder``, loaded by stock peft."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses a name that transformers deprecated
        tuned: PeftModel = PeftModel.from_pretrained(model, str(folder))
    tuned.train(mode=False)
    return tuned


def own_logprobs(model: PreTrainedModel, document: TokenSequence) -> Tensor:
    """Return the scored tokens' log-probabilities from the model's own logits of this document alone."""
    ids = torch.from_numpy(document.input_ids).long()
    logprobs: Tensor = model(input_ids=ids[None]).logits[0].float().log_softmax(dim=-1)
    scored = torch.from_numpy(document.scored).long()
    return logprobs[scored - 1, ids[scored]]


def gradients(adapted: PeftModel) -> dict[str, Tensor]:
    """Return and clear the gradients of the adapter."""
    found = {}
    for name, parameter in adapted.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.clone()
            parameter.grad = None
    return found
