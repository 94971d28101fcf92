"""Makes the base model of the study: partly able, and able to use guidance.

    python -m bench.quality.base

The raw model solves 3 % of the problems and cannot use a shown reference. It was warmed up through the product's own
supervised method; nothing of what is measured later was trained on. Why guided rows: they stand for a larger model
that follows such prompts by itself. The base model is the raw one with the adapter of that warm-up merged into it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from bench.quality.answering import grade, load_for_answers
from bench.quality.problems import validation_problems
from bench.quality.setting import BASE_MODEL, MERGING, RAW_MODEL, WORD_PROBLEMS, import_raw_model, models, reference_to
from bench.quality.warm_up import ADAPTER, ADAPTER_FILE, WarmUp, shown_reference
from worker.training.model.base_model import load_base_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from worker.training.evaluation import GradedAnswer

REPORT = "warm-up.json"


def make_base() -> Path:
    """Merge the warm-up's adapter into the raw model and return the folder of that; a finished one is kept."""
    folder = models() / BASE_MODEL
    if (folder / REPORT).is_file():
        return folder
    import_raw_model()
    merge(ADAPTER_FILE, folder)
    (folder / REPORT).write_text(json.dumps({"recipe": asdict(WarmUp())} | _measure(), indent=2) + "\n")
    return folder


def merge(adapter: Path, folder: Path) -> None:
    """Write the raw model with ``adapter`` merged into it to ``folder``, in bfloat16 as the raw model's.

    Products are taken in float64, so that what is rounded to bfloat16 is the same on every processor.
    """
    loaded = load_base_model(reference_to(RAW_MODEL), MERGING)
    weights = {name: tensor.double() for name, tensor in load_file(adapter).items()}
    layers = {name: layer for name, layer in loaded.model.named_modules() if _half(name, "A") in weights}
    with torch.inference_mode():
        for name, layer in layers.items():
            change = weights[_half(name, "B")] @ weights[_half(name, "A")] * (ADAPTER.alpha / ADAPTER.r)
            layer.weight.copy_(layer.weight.double() + change)
    shutil.rmtree(folder, ignore_errors=True)
    loaded.model.bfloat16().save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def _half(layer: str, letter: str) -> str:
    return f"base_model.model.{layer}.lora_{letter}.weight"


def _measure() -> dict[str, Any]:
    """Return how able the base model is, on the validation problems, without and with the reference shown."""
    problems = validation_problems()
    loaded = load_for_answers(reference_to(BASE_MODEL), WORD_PROBLEMS)
    shown = [shown_reference(problem.question, problem.solution) for problem in problems]
    plain, guided = grade(loaded, WORD_PROBLEMS, problems), grade(loaded, WORD_PROBLEMS, problems, shown)
    for problem, answer in list(zip(problems, plain, strict=True))[:12]:
        print(f"{'right' if answer.is_correct else 'WRONG'}  {problem.solution!r}\n       {answer.response!r}")
    families = sorted({problem.family for problem in problems})
    figures = {
        "validation": _share(plain),
        "validation_by_family": {
            family: _share([a for p, a in zip(problems, plain, strict=True) if p.family == family])
            for family in families
        },
        "validation_unfinished": sum(not answer.is_finished for answer in plain),
        "validation_reference_shown": _share(guided),
    }
    print(json.dumps(figures, indent=2), flush=True)
    return figures


def _share(answers: Sequence[GradedAnswer]) -> float:
    return sum(answer.is_correct for answer in answers) / len(answers)


def main() -> None:
    """Make the base model, or tell its figures when it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    print((make_base() / REPORT).read_text())


if __name__ == "__main__":
    main()
