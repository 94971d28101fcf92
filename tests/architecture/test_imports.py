"""What loading a process must not load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

HEAVY = ("torch", "transformers", "peft", "numpy")


@pytest.mark.parametrize(
    "module",
    [
        "app.main",
        "app.cli.main",
        "worker.celery_app",
        "worker.tasks",
        "worker.training.methods",
        "worker.training.data.reader",
    ],
)
def test_service_processes_load_no_tensor_library(module: str) -> None:
    program = f"import json, sys, {module}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(loaded.stdout) == []


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
