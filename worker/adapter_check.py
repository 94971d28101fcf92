"""A last look at an adapter before it is published: the safetensors header and the PEFT config, without torch.

That no weight is NaN or infinite is the trainer's own guarantee; reading every weight here would double the work.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from worker.outputs import ADAPTER_CONFIG, ADAPTER_WEIGHTS, REQUIRED_OUTPUTS

HEADER_BYTES = 64 << 20
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class BadOutputError(Exception):
    """The trainer reported success but its outputs are not an adapter."""


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def check_outputs(files: dict[str, Path]) -> None:
    """Check that every required output is there and that the weights are a complete LoRA adapter.

    Raises:
        BadOutputError: One is missing or inconsistent; says which.
    """
    missing = [name for name in REQUIRED_OUTPUTS if name not in files]
    if missing:
        raise BadOutputError(f"missing outputs: {', '.join(missing)}")
    tensors = _read_header(files[ADAPTER_WEIGHTS])
    _check_pairs(tensors)
    try:
        config = json.loads(files[ADAPTER_CONFIG].read_text())
    except ValueError as error:
        raise BadOutputError(f"{ADAPTER_CONFIG} is not JSON") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise BadOutputError(f"{ADAPTER_CONFIG} names no peft_type")


def _read_header(path: Path) -> dict[str, _Tensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= HEADER_BYTES:
            raise BadOutputError(f"{path.name} has a header of {length} bytes")
        raw = file.read(length)
    try:
        header = msgspec.convert(json.loads(raw), dict[str, Any])
        header.pop("__metadata__", None)
        tensors = msgspec.convert(header, dict[str, _Tensor])
    except (ValueError, msgspec.ValidationError) as error:
        raise BadOutputError(f"{path.name} has an unreadable header") from error
    _check_layout(tensors, path.name, path.stat().st_size - 8 - length)
    return tensors


def _check_layout(tensors: dict[str, _Tensor], name: str, data_bytes: int) -> None:
    end = 0
    for key, tensor in sorted(tensors.items(), key=lambda entry: entry[1].data_offsets):
        size = _ITEM_BYTES.get(tensor.dtype, 0)
        for length in tensor.shape:
            size *= length
        if size <= 0 or tensor.data_offsets != (end, end + size):
            raise BadOutputError(f"{name}: tensor {key} of {tensor.dtype} {tensor.shape} does not fit its place")
        end += size
    if end != data_bytes:
        raise BadOutputError(f"{name} holds {data_bytes} bytes of data, its header describes {end}")


def _check_pairs(tensors: dict[str, _Tensor]) -> None:
    down = {key.replace(".lora_A.", ".*."): tensor for key, tensor in tensors.items() if ".lora_A." in key}
    up = {key.replace(".lora_B.", ".*."): tensor for key, tensor in tensors.items() if ".lora_B." in key}
    if not down or down.keys() != up.keys():
        raise BadOutputError("the adapter lacks one half of a low-rank pair")
    for key, tensor in down.items():
        if tensor.shape[0] != up[key].shape[1]:
            raise BadOutputError(f"the ranks of {key} differ: {tensor.shape} and {up[key].shape}")
