"""One contestant in a process of its own: ``python -m bench.trainer.child POINT VARIANT STEPS``; see ``pace``."""

from __future__ import annotations

import importlib
import sys
import warnings

import worker.training.environment  # noqa: F401 # isort: skip - read when torch is imported
import torch

from bench.trainer.pace import Pace
from bench.trainer.points import POINTS
from bench.trainer.variants import VARIANTS


def main(point_name: str, variant_name: str, steps: str) -> None:
    """Run a contestant until its steps are taken."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    point, variant = POINTS[point_name], VARIANTS[variant_name]
    module, _, function = variant.entry.partition(":")
    enter = getattr(importlib.import_module(f"bench.trainer.{module}"), function)
    enter(point, Pace.of_process(int(steps), point.device), **variant.options)


if __name__ == "__main__":
    main(*sys.argv[1:])
