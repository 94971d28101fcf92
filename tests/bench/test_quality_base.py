import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.quality import base, setting, warm_up
from bench.quality.problems import TARGET, draw
from worker.training.model.adapter import attach_adapter, load_adapter
from worker.training.model.base_model import load_base_model

RECIPE = warm_up.WarmUp(plain_source=4, plain_target=2, reference_shown=1, judgment_shown=1)


@pytest.fixture
def raw_model(tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a tiny model where the imported one would lie, and ask it little."""
    for module in (setting, warm_up):
        monkeypatch.setattr(module, "WORK", tmp_path)
    monkeypatch.setattr(base, "ADAPTER_FILE", tmp_path / warm_up.ADAPTER_FILE.name)
    monkeypatch.setattr(base, "validation_problems", lambda: draw(1, 4, TARGET))
    folder = setting.models() / setting.RAW_MODEL
    shutil.copytree(tiny_model(), folder)
    return folder


def test_the_base_is_the_raw_model_with_the_warm_up_merged(raw_model: Path, tmp_path: Path) -> None:
    warm_up.train_adapter(RECIPE, tmp_path / warm_up.ADAPTER_FILE.name)
    folder = base.make_base()
    assert 0 <= json.loads((folder / base.REPORT).read_text())["validation"] <= 1
    raw, warm = (
        load_base_model(setting.reference_to(name.name), setting.MERGING).model for name in (raw_model, folder)
    )
    assert type(warm) is type(raw)
    ids = torch.arange(1, 9)[None]
    plain, merged = raw(ids).logits, warm(ids).logits
    adapted = attach_adapter(raw, warm_up.ADAPTER, base_model_name="raw", seed=0)
    load_adapter(adapted, setting.WORK / "warm-up" / "outputs")
    with torch.inference_mode():
        kept_apart = adapted(ids).logits
    assert (merged - plain).abs().max() > 10 * (merged - kept_apart).abs().max()


def test_a_finished_base_is_kept(raw_model: Path) -> None:
    folder = raw_model.parent / setting.BASE_MODEL
    folder.mkdir()
    (folder / base.REPORT).write_text("{}")
    assert base.make_base() == folder
    assert [file.name for file in folder.iterdir()] == [base.REPORT]


def test_the_committed_adapter_is_of_the_warm_ups_shape() -> None:
    weights = load_file(warm_up.ADAPTER_FILE)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    ranks = {tensor.shape[0] if "lora_A" in name else tensor.shape[1] for name, tensor in weights.items()}
    assert ranks == {warm_up.ADAPTER.r}
