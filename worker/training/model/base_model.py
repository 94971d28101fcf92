"""Loads a base model: from a local folder, pinned by digest, frozen, without running anything that came with it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from worker.training.errors import BaseModelError, SpecError
from worker.training.model.model_folder import context_length, model_digest, read_config
from worker.training.spec import BaseModelRef, RuntimeSettings

_PROBE_TOKENS = 4
_ROUNDING = 1e-2  # bfloat16 keeps two to three digits


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A frozen base model in eval mode with its tokenizer. ``context_length`` is in tokens."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    parameters: int
    device: torch.device
    dtype: torch.dtype


def load_base_model(ref: BaseModelRef, runtime: RuntimeSettings) -> LoadedModel:
    """Return the base model that ``ref`` pins, on the device and in the dtype of ``runtime``.

    Raises:
        BaseModelError: The folder is missing or altered, or holds no decoder-only model in safetensors.
        SpecError: The device does not exist here.
    """
    loaded = read_base_model(ref, runtime)
    loaded.model.to(loaded.device)  # type: ignore[arg-type]  # transformers' wrapper loses `self`
    require_causal_attention(loaded.model, ref.name)
    return loaded


def read_base_model(ref: BaseModelRef, runtime: RuntimeSettings) -> LoadedModel:
    """Return the same in host memory, not tried yet; raises as ``load_base_model`` does.

    Whoever places it on its ``device`` calls ``require_causal_attention`` before anything else.
    """
    path = Path(ref.path)
    raw_config = read_config(path)
    if model_digest(path) != ref.digest:
        raise BaseModelError(
            f"the files of base model {ref.name} changed since it was registered; restore them or register it anew",
            "model",
        )
    device = find_device(runtime.device)
    dtype = find_dtype(runtime.dtype, device)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        _require_decoder_only(config, ref.name)
        model = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BaseModelError(f"base model {ref.name} cannot be loaded ({type(error).__name__})", "model") from error
    model.requires_grad_(False)
    model.train(False)
    return LoadedModel(model, tokenizer, context_length(raw_config), model.num_parameters(), device, dtype)


def find_device(name: str) -> torch.device:
    """Return the device that ``name`` means; ``auto`` is the first CUDA device, else the CPU.

    Raises:
        SpecError: ``name`` is no device, or CUDA is asked for and not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SpecError(f"there is no device called {name}; use auto, cpu, cuda or cuda:0", "runtime.device") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SpecError(f"device {name} is not available on this worker; use auto or cpu", "runtime.device")
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that ``name`` means; ``auto`` is bfloat16 where the device computes in it, else float32."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if has_bfloat16 else torch.float32


def _require_decoder_only(config: PreTrainedConfig, name: str) -> None:
    supported = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    architectures = config.architectures or [supported or config.model_type]
    if config.is_encoder_decoder or supported is None or supported not in architectures:
        raise BaseModelError(
            f"base model {name} is a {architectures[0]}; only decoder-only language models can be tuned", "model"
        )


def require_causal_attention(model: PreTrainedModel, name: str) -> None:
    """Refuse a model whose predictions depend on later tokens, whatever its class is called.

    Raises:
        BaseModelError: They do.
    """
    ids = torch.arange(1, _PROBE_TOKENS + 1, device=model.device)
    probes = ids.repeat(2, 1)  # [2, T]
    probes[1, -1] = 0
    with torch.inference_mode():
        logits = model(input_ids=probes, attention_mask=torch.ones_like(probes), use_cache=False).logits
    before, after = logits[:, :-1].float()
    if (before - after).abs().max() > _ROUNDING * before.abs().max():
        raise BaseModelError(
            f"base model {name} attends to later tokens; only decoder-only models can be tuned", "model"
        )
