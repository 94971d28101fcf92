import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from worker.adapter_check import BadOutputError, check_outputs

DOWN, UP = "layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_B.weight"
HEADER: Mapping[str, Any] = {
    DOWN: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    UP: {"dtype": "BF16", "shape": [4, 2], "data_offsets": [24, 40]},
    "__metadata__": {"format": "pt"},
}


def write(folder: Path, header: Any, data_bytes: int = 40, config: str = '{"peft_type": "LORA"}') -> dict[str, Path]:
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    contents = {
        "adapter_config.json": config.encode(),
        "adapter_model.safetensors": len(packed).to_bytes(8, "little") + packed + bytes(data_bytes),
        "metrics.csv": b"step\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**HEADER, name: {**HEADER[name], **fields}}


def test_complete_adapter_passes(tmp_path: Path) -> None:
    check_outputs(write(tmp_path, HEADER))


@pytest.mark.parametrize(
    "header",
    [
        {},
        {DOWN: HEADER[DOWN]},
        {"layers.0.weight": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}},
        changed(UP, shape=[8, 1]),
        changed(UP, dtype="U64"),
        changed(UP, data_offsets=[24, 41]),
        changed(UP, data_offsets=[20, 36]),
        changed(DOWN, shape=[0, 3], data_offsets=[0, 0]),
        changed(DOWN, shape=[-2, -3]),
        changed(DOWN, surplus=1),
        [],
        b"{",
        b"\xff\xff",
    ],
)
def test_inconsistent_weights_are_refused(tmp_path: Path, header: Any) -> None:
    with pytest.raises(BadOutputError):
        check_outputs(write(tmp_path, header))


@pytest.mark.parametrize("data_bytes", [39, 41])
def test_cut_or_padded_weights_are_refused(tmp_path: Path, data_bytes: int) -> None:
    with pytest.raises(BadOutputError, match="describes 40"):
        check_outputs(write(tmp_path, HEADER, data_bytes))


@pytest.mark.parametrize("prefix", [b"", b"\x01", (1 << 40).to_bytes(8, "little")])
def test_lying_header_length_is_refused_before_it_is_read(tmp_path: Path, prefix: bytes) -> None:
    files = write(tmp_path, HEADER)
    files["adapter_model.safetensors"].write_bytes(prefix)
    with pytest.raises(BadOutputError):
        check_outputs(files)


@pytest.mark.parametrize("config", ["", "[]", "{}", "not json"])
def test_config_must_be_one_of_peft(tmp_path: Path, config: str) -> None:
    with pytest.raises(BadOutputError):
        check_outputs(write(tmp_path, HEADER, config=config))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "metrics.csv"])
def test_every_required_output_is_missed(tmp_path: Path, name: str) -> None:
    files = write(tmp_path, HEADER)
    del files[name]
    with pytest.raises(BadOutputError, match=name):
        check_outputs(files)
