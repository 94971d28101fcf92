"""What a run ran on and with, for its record: classes and versions, no names."""

from __future__ import annotations

import os
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.trainer.points import ROOT
from worker.training.model.base_model import find_dtype

_PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")


def describe() -> dict[str, Any]:
    """Return the machine's class, versions, date and commit."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "default_dtype": str(find_dtype("auto", torch.device("cpu"))).removeprefix("torch."),
        "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in found.items()}
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in names.get("flags", "").split()]
    model = names.get("model name", "unknown")
    return f"{model} family {names.get('cpu family', '?')} model {names.get('model', '?')}, {' '.join(wide)}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + (
        "+" if git("status", "--porcelain", "--", "worker", "bench/trainer") else ""
    )
