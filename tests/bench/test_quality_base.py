import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.quality import base, setting
from bench.quality.problems import TARGET, draw
from worker.training.model.base_model import load_base_model


@pytest.fixture
def raw_model(tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a tiny model where the imported one would lie, and ask it little."""
    monkeypatch.setattr(setting, "WORK", tmp_path)
    monkeypatch.setattr(base, "WORK", tmp_path)
    monkeypatch.setattr(base, "validation_problems", lambda: draw(1, 4, TARGET))
    folder = setting.models() / setting.RAW_MODEL
    shutil.copytree(tiny_model(), folder)
    return folder


def test_the_base_is_the_raw_model_with_the_warm_start_merged(raw_model: Path) -> None:
    folder = base.make_base(base.WarmUp(plain_source=4, plain_target=2, reference_shown=1, judgment_shown=1))
    report = json.loads((folder / base.REPORT).read_text())
    assert report["recipe"]["plain_source"] == 4
    assert 0 <= report["validation"] <= 1
    raw, warm = (
        load_base_model(setting.reference_to(name.name), setting.MERGING).model for name in (raw_model, folder)
    )
    assert type(warm) is type(raw)
    differences = [(one - other).abs().max() for one, other in zip(raw.parameters(), warm.parameters(), strict=True)]
    ids = torch.arange(1, 9)[None]
    assert max(differences) > 0
    assert not torch.equal(raw(ids).logits, warm(ids).logits)


def test_a_finished_base_is_kept(raw_model: Path) -> None:
    folder = raw_model.parent / setting.BASE_MODEL
    folder.mkdir()
    (folder / base.REPORT).write_text("{}")
    assert base.make_base(base.WarmUp()) == folder
    assert [file.name for file in folder.iterdir()] == [base.REPORT]
