"""One run: the rows of an arm, trained by the product, the adapter measured on the test problems."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

from bench.quality.answering import grade, load_for_answers
from bench.quality.arms import SCHEDULE, Arm
from bench.quality.plan import plan, repeat
from bench.quality.recorder import Recorder
from bench.quality.rollouts import draw_rollouts
from bench.quality.rows import BUILDERS
from bench.quality.setting import CODE
from bench.quality.store import Record
from bench.quality.warm_up import shown_reference
from examples.word_problems.generate import write_rows
from worker.training.spec import OUTPUTS_DIR, TRAINING_FILE, BaseModelRef, EvaluationSettings, TrainingSpec
from worker.training.trainer import train

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.quality.rows import Row
    from bench.quality.study import Study
    from examples.word_problems.families import Problem
    from worker.training.evaluation import GradedAnswer

_TOLD = 10  # steps that a figure of the loss is the mean of


def make_rows(study: Study, arm: Arm, base: BaseModelRef, seed: int) -> list[Row]:
    """Return the different training rows of ``arm`` on data seed ``seed``."""
    problems = study.questions(seed)
    # Always whole blocks: the first 25 questions are part of the first 50.
    whole = problems[: max(arm.questions, 50)]
    asked = {problem.question for problem in problems[: arm.questions]}
    judged = draw_rollouts(study.setting, base, whole, seed, per_question=arm.rollouts)
    if arm.shown != "nothing":
        guided = arm.guided or arm.rollouts
        judged += draw_rollouts(study.setting, base, whole, seed, per_question=guided, shown=arm.shown)
    return BUILDERS[arm.rows]([one for one in judged if one.problem.question in asked])


def run(study: Study, arm: Arm, base: BaseModelRef, seed: int) -> tuple[Record, list[dict[str, Any]], dict[str, Any]]:
    """Return the record of one run, its answers, and what else is worth keeping."""
    workspace = study.setting.work / "workspaces" / f"{arm.name}-{seed}"
    rows = make_rows(study, arm, base, seed) if arm.method else []
    recorder, adapter = Recorder(), None
    started = time.process_time()
    if arm.method:
        adapter = train_arm(study, arm, base, seed, workspace=workspace, rows=rows, recorder=recorder)
    trained = time.process_time()
    problems = study.exam(seed)
    answers = grade(load_for_answers(base, study.setting, adapter), study.setting, problems, _asked(arm, problems))
    answered = time.process_time()
    shutil.rmtree(workspace, ignore_errors=True)
    record = Record(
        table=next((table.name for table in study.tables.values() if arm.name in table.arms), ""),
        arm=arm.name,
        seed=seed,
        fingerprint=arm.fingerprint(base.digest),
        base=base.digest[:12],
        code=CODE,
        rows=len(rows),
        right_rows=sum("judgment" not in row and row.get("correct", True) for row in rows),
        steps=len(recorder.losses),
        accuracy=_share(answers),
        answers="".join("1" if answer.is_correct else "0" for answer in answers),
        by_family=_by_family(problems, answers),
        unfinished=sum(not answer.is_finished for answer in answers),
        loss=_summary(recorder.losses),
        train_cpu_seconds=round(trained - started, 1),
        answer_cpu_seconds=round(answered - trained, 1),
        settings=arm.settings(),
        guidance=recorder.guidance,
    )
    told = [
        {"question": problem.question, "solution": problem.solution, "response": answer.response}
        for problem, answer in zip(problems, answers, strict=True)
    ]
    return record, told, {"losses": recorder.losses, "metrics": recorder.metrics, "messages": recorder.messages}


def _asked(arm: Arm, problems: Sequence[Problem]) -> list[str]:
    """Return what an untrained model is asked with the references shown; nothing: the bare questions."""
    if arm.method or arm.shown != "reference":
        return []
    return [shown_reference(problem.question, problem.solution) for problem in problems]


def train_arm(
    study: Study, arm: Arm, base: BaseModelRef, seed: int, *, workspace: Path, rows: Sequence[Row], recorder: Recorder
) -> tuple[Path, Any]:
    """Train ``arm`` on ``rows`` in ``workspace`` and return the adapter's folder and settings."""
    hyperparameters = {**SCHEDULE, **arm.hyperparameters}
    chosen = plan(len(rows), steps=arm.steps, batch_size=hyperparameters["batch_size"])
    shutil.rmtree(workspace, ignore_errors=True)
    (workspace / TRAINING_FILE).parent.mkdir(parents=True)
    write_rows(workspace / TRAINING_FILE, repeat(rows, chosen.size, seed))
    spec = TrainingSpec(
        job_id=f"{arm.name}-{seed}",
        base_model=base,
        method=arm.method,
        hyperparameters={**hyperparameters, "n_epochs": chosen.n_epochs},
        adapter=arm.adapter,
        evaluation=EvaluationSettings(generate=False),
        seed=seed,
        runtime=study.setting.runtime,
    )
    train(workspace, spec, recorder)
    return workspace / OUTPUTS_DIR, arm.adapter


def _share(answers: Sequence[GradedAnswer]) -> float:
    return sum(answer.is_correct for answer in answers) / len(answers)


def _by_family(problems: Sequence[Problem], answers: Sequence[GradedAnswer]) -> dict[str, float]:
    found: dict[str, list[GradedAnswer]] = {}
    for problem, answer in zip(problems, answers, strict=True):
        found.setdefault(problem.family, []).append(answer)
    return {family: round(_share(of_family), 4) for family, of_family in found.items()}


def _summary(losses: Sequence[float]) -> dict[str, float]:
    if not losses:
        return {}
    middle = max(0, len(losses) // 2 - _TOLD // 2)
    parts = {"first": losses[:_TOLD], "middle": losses[middle : middle + _TOLD], "last": losses[-_TOLD:]}
    return {name: round(sum(part) / len(part), 5) for name, part in parts.items()}
