"""Makes the base model of the study: partly able, and able to use guidance.

    python -m bench.quality.base

The raw model solves 3 % of the problems and cannot use a shown reference. It is warmed up through the product's own
supervised method and merged; nothing of what is measured later was trained on. Why guided rows: they stand for a
larger model that follows such prompts by itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from bench.quality.answering import grade, load_for_answers
from bench.quality.corruption import corrupt
from bench.quality.problems import SOURCE, validation_problems, warm_up_problems
from bench.quality.recorder import Recorder
from bench.quality.setting import (
    BASE_MODEL,
    MERGING,
    RAW_MODEL,
    RAW_MODEL_SOURCE,
    TRAINING,
    WORK,
    messages,
    models,
    reference_to,
)
from examples.word_problems.generate import write_rows
from worker.training.data.examples import Message
from worker.training.methods.prompts import PROMPT_SETS, guide
from worker.training.model.adapter import attach_adapter, load_adapter
from worker.training.model.base_model import load_base_model
from worker.training.model.gguf_import import import_model
from worker.training.spec import OUTPUTS_DIR, TRAINING_FILE, EvaluationSettings, LoraSettings, TrainingSpec
from worker.training.trainer import train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from examples.word_problems.families import Problem
    from worker.training.evaluation import GradedAnswer
    from worker.training.methods.prompts import Prompt

REPORT = "warm-up.json"


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The recipe, chosen on the validation problems. Rows are counted; a step takes eight.

    With 36 target rows in the families' own proportions 50 % of the validation problems were right, 82 % of ``boxes``;
    hence fewer rows, and few of ``boxes``.
    """

    plain_source: int = 232
    plain_target: int = 24
    reference_shown: int = 128
    judgment_shown: int = 128
    learning_rate: float = 1e-3
    seed: int = 0


ADAPTER = LoraSettings(r=16, alpha=32)
_TARGET_MIX = {"change": 8, "boxes": 6, "together": 5, "sharing": 5}
_BATCH = 8


def target_problems(recipe: WarmUp) -> list[Problem]:
    """Return the problems of target families that the warm start trains on."""
    return warm_up_problems(recipe.plain_target, _TARGET_MIX)


def warm_up_rows(recipe: WarmUp) -> list[dict[str, Any]]:
    """Return the training rows; guided ones are of source families and worded as NLFT words them."""
    rng = Random(recipe.seed)
    guided = recipe.reference_shown + recipe.judgment_shown
    source = warm_up_problems(recipe.plain_source + guided, SOURCE)
    plain = [*target_problems(recipe), *source[guided:]]
    prompts = PROMPT_SETS["default"]
    rows = [_row(problem.question, problem.solution) for problem in plain]
    for problem in source[: recipe.reference_shown]:
        rows.append(_row(shown_reference(problem.question, problem.solution), problem.solution))
    for problem in source[recipe.reference_shown : guided]:
        wrong, judgment = corrupt(problem.solution, rng)
        rows.append(_row(fill(prompts.judgment, problem.question, {"judgment": judgment}), wrong))
    return rows


def shown_reference(question: str, reference: str) -> str:
    """Return ``question`` with ``reference`` shown."""
    return fill(PROMPT_SETS["default"].reference, question, {"reference": reference})


def fill(template: Prompt, question: str, guidance: Mapping[str, str]) -> str:
    """Return the user turn that shows ``guidance`` beside ``question``, as NLFT renders it."""
    return guide([Message("user", question)], template, guidance)[-1].text


def _row(question: str, response: str) -> dict[str, Any]:
    return {"messages": messages(question), "response": response}


def make_base(recipe: WarmUp) -> Path:
    """Warm the raw model up, merge, and return the folder of the base model; a finished one is kept."""
    folder = models() / BASE_MODEL
    if (folder / REPORT).is_file():
        return folder
    if not (models() / RAW_MODEL / "config.json").is_file():
        import_model(RAW_MODEL_SOURCE, models(), name=RAW_MODEL, report=print)
    workspace = WORK / "warm-up"
    shutil.rmtree(workspace, ignore_errors=True)
    (workspace / TRAINING_FILE).parent.mkdir(parents=True)
    write_rows(workspace / TRAINING_FILE, warm_up_rows(recipe))
    spec = TrainingSpec(
        job_id="warm-up",
        base_model=reference_to(RAW_MODEL),
        method="supervised",
        hyperparameters={"n_epochs": 1, "batch_size": _BATCH, "learning_rate": recipe.learning_rate},
        adapter=ADAPTER,
        evaluation=EvaluationSettings(generate=False),
        seed=recipe.seed,
        runtime=TRAINING,
    )
    started = time.process_time()
    train(workspace, spec, Recorder())
    print(f"warm start: {time.process_time() - started:.0f} CPU seconds", flush=True)
    _merge(workspace / OUTPUTS_DIR, folder)
    (folder / REPORT).write_text(json.dumps({"recipe": asdict(recipe)} | _measure(), indent=2) + "\n")
    return folder


def _merge(adapter: Path, folder: Path) -> None:
    """Write the raw model with the adapter merged into it to ``folder``, in bfloat16 as the raw model's."""
    raw = reference_to(RAW_MODEL)
    loaded = load_base_model(raw, MERGING)
    adapted = attach_adapter(loaded.model, ADAPTER, base_model_name=raw.name, seed=0)
    load_adapter(adapted, adapter)
    merged = adapted.merge_and_unload()
    shutil.rmtree(folder, ignore_errors=True)
    merged.bfloat16().save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def _measure() -> dict[str, Any]:
    """Return how able the base model is, on the validation problems, without and with the reference shown."""
    problems = validation_problems()
    loaded = load_for_answers(reference_to(BASE_MODEL))
    shown = [shown_reference(problem.question, problem.solution) for problem in problems]
    plain, guided = grade(loaded, problems), grade(loaded, problems, shown)
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
    print((make_base(WarmUp()) / REPORT).read_text())


if __name__ == "__main__":
    main()
