"""What a run ran on and with, for its record: classes and versions, no names."""

from __future__ import annotations

import os
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from bench.machine import commit, machine_class
from bench.trainer import environments
from worker.training.model.base_model import find_dtype

_PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")


def describe() -> dict[str, Any]:
    """Return the machine's class, versions, date and commit."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": machine_class(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "default_dtype": str(find_dtype("auto", torch.device("cpu"))).removeprefix("torch."),
        "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None}
        | environments.versions(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
