"""One contestant in a process of its own: ``python -m bench.trainer.child POINT VARIANT STEPS``; see ``pace``."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import worker.training.environment  # noqa: F401 # isort: skip - read when torch is imported
import torch

from bench.trainer.pace import Pace, claim_output, tell
from bench.trainer.variants import VARIANTS


def main(point_name: str, variant_name: str, steps: str) -> None:
    """Run a contestant until its steps are taken."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    answers = claim_output()
    variant = VARIANTS[variant_name]
    try:
        enter = _find(variant.entry)
    except (ImportError, NotImplementedError) as error:  # the latter is Unsloth's word for a machine without a GPU
        tell(answers, {"not_run": " ".join(f"{type(error).__name__}: {error}".split())})
        return
    point = _find("points:POINTS")[point_name]
    enter(point, Pace(int(steps), point.device, sys.stdin, answers), **variant.options)


def _find(entry: str) -> Any:
    """Return what ``module:name`` below ``bench.trainer`` says.

    Nothing of transformers is loaded before a contestant's own module, for Unsloth changes it and has to come first.
    """
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(f"bench.trainer.{module}"), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
