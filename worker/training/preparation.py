"""From a workspace to rows that can be trained: read, built, checked against method and tokenizer, tokenized once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from pydantic import ValidationError

from worker.training.advice import Rollouts, advise
from worker.training.building.builder import Builder
from worker.training.building.grade import sample_response
from worker.training.building.kept_rows import KeptRows, TrainingRows
from worker.training.building.needs import find_needs
from worker.training.data.examples import Example, NLFTExample
from worker.training.data.reader import Row, read_rows
from worker.training.data.screening import MOST_PROBLEMS, check_rows, screen_rows
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.pulse import Pulse
from worker.training.errors import DatasetError, SpecError, StageError
from worker.training.evaluation import select_rows
from worker.training.events import MessageEvent, SettingsEvent
from worker.training.graders import grade
from worker.training.methods import METHODS
from worker.training.methods.auto import AUTO, RunFacts
from worker.training.methods.base import Hyperparameters, Method, find_problems
from worker.training.spec import RESUME_DIR, TRAINING_FILE, VALIDATION_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from worker.training.advice import Advice
    from worker.training.building.report import BuildReport
    from worker.training.completions import Completions
    from worker.training.data.rendering import ModelRenderer
    from worker.training.methods.base import Probe
    from worker.training.model.base_model import LoadedModel
    from worker.training.observer import Observer
    from worker.training.spec import EvaluationSettings, TrainingSpec
    from worker.training.types import RenderedExample


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: a method and its complete hyperparameters."""

    method: Method
    hyperparameters: Hyperparameters


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Rows ready for the engine.

    Attributes:
        rows: The training rows, with the lines of the built dataset where one was built.
        training: The same, rendered.
        validation: Rendered validation rows, those that the method can compute a loss for.
        probed: Training rows rendered for the method's probe.
        asked: Validation rows to generate answers for.
        report: What the building stages made; None where there was nothing to make.
        advice: What deserves a look in the rows.
    """

    rows: list[Row]
    training: list[PreparedExample]
    validation: list[PreparedExample]
    probed: list[PreparedExample]
    asked: list[NLFTExample]
    report: BuildReport | None = None
    advice: Sequence[Advice] = ()


def read_training_rows(workspace: Path, spec: TrainingSpec) -> TrainingRows:
    """Return the rows of the training file, or those built from it that the checkpoint to resume from carries.

    Raises:
        CheckpointError: The checkpoint's rows cannot be read.
        DatasetError: A line is not a sound row, or the method cannot train it whatever is built from it.
    """
    kept = KeptRows(workspace / RESUME_DIR).load()
    if kept is not None:
        return kept
    with (workspace / TRAINING_FILE).open("rb") as file:
        rows = [Row(row.line, _criticised(row.example)) for row in read_rows(file)]
    method = METHODS.get(spec.method)
    if method is not None:
        _require(method, rows, "training_file", before_building=True)
    return TrainingRows(rows)


def build_rows(
    workspace: Path,
    spec: TrainingSpec,
    loaded: LoadedModel,
    renderer: ModelRenderer,
    rows: TrainingRows,
    *,
    observer: Observer,
    completions: Completions,
) -> TrainingRows:
    """Return ``rows`` with what they lack: responses, grades, judgments; see ``building``.

    Raises:
        DatasetError: A prompt does not suit the base model.
        StageError: A stage leaves nothing to train on.
        TrainingInterrupted: The observer asked for an early end.
    """
    if rows.report is not None or find_needs(spec, rows.rows).nothing:
        return rows
    builder = Builder(workspace, spec, loaded, renderer, observer, Pulse(observer), completions)
    built = builder.build(rows.rows)
    expendable = frozenset(index for index, one in enumerate(built.candidates) if one.is_made)
    made = [Row(one.line, one.example) for one in built.candidates]
    return TrainingRows(made, expendable, built.report, built.is_new)


def choose_recipe(spec: TrainingSpec, loaded: LoadedModel, rows: TrainingRows, observer: Observer) -> Recipe:
    """Return the spec's method with complete hyperparameters; tell what had to wait for the rows.

    Raises:
        SpecError: The method is unknown, or a hyperparameter is unknown or out of range.
    """
    method = METHODS.get(spec.method)
    if method is None:
        raise SpecError(f"there is no method {spec.method}; choose one of {', '.join(METHODS)}", "method.type")
    facts = RunFacts(rows.count, loaded.parameters, loaded.context_length)
    try:
        recipe = Recipe(method, method.hyperparameters_type.resolve(spec.hyperparameters, facts))
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        place = ".".join(["method", method.name, "hyperparameters", *map(str, fault["loc"])])
        raise SpecError(f"{place}: {fault['msg']}", place) from error
    choices = method.hyperparameters_type.explain_auto(spec.hyperparameters, facts)
    waited = {name: choice.to_json() for name, choice in choices.items() if spec.hyperparameters.get(name) == AUTO}
    if waited:
        observer.emit(SettingsEvent(recipe.hyperparameters.model_dump(mode="json"), waited))
    return recipe


def prepare_data(
    workspace: Path,
    spec: TrainingSpec,
    loaded: LoadedModel,
    recipe: Recipe,
    renderer: ModelRenderer,
    *,
    rows: TrainingRows,
    observer: Observer,
) -> PreparedData:
    """Return everything that the run scores, tokenized.

    Args:
        workspace: The run's folder.
        spec: What to run.
        loaded: The base model.
        recipe: Method and hyperparameters.
        renderer: Of the base model's tokenizer.
        rows: The training rows; built ones are kept in the workspace.
        observer: Told of built rows that turn out unfit.

    Raises:
        DatasetError: A row cannot be trained with this method, or does not suit the base model.
        StageError: No built row is fit.
    """
    method = recipe.method
    _require(method, rows.rows, "training_file")
    longest = min(recipe.hyperparameters.max_seq_length, loaded.context_length)

    def render(chosen: Sequence[Row], source: Method | Probe | None, param: str) -> list[PreparedExample]:
        if source is None:
            return []
        one = partial(source.render, renderer=renderer, hyperparameters=recipe.hyperparameters)
        rendered = check_rows(chosen, one, loaded.tokenizer, max_tokens=longest, param=param)
        return _prepared(chosen, rendered)

    one = partial(method.render, renderer=renderer, hyperparameters=recipe.hyperparameters)
    rendered = screen_rows(rows.rows, one, loaded.tokenizer, max_tokens=longest, expendable=rows.expendable)
    fit = _keep_fit(workspace, rows, rendered, observer)
    held_out: list[Row] = []
    if spec.has_validation_file:
        held_out = _read_graded(workspace / VALIDATION_FILE, "validation_file", spec.evaluation)
    advice = _find_advice(rows, held_out)
    if not (workspace / RESUME_DIR).is_dir():
        for finding in advice:
            observer.emit(MessageEvent(finding.level, finding.message, finding.to_json()))
    scorable = [row for row in held_out if not find_problems(method, row.example, row.line)]
    sample = [] if method.probe is None else fit[: method.probe.sample_size]
    return PreparedData(
        rows=fit,
        training=_prepared(fit, list(rendered.values())),
        validation=render(scorable, method, "validation_file"),
        probed=render(sample, method.probe, "training_file"),
        asked=select_rows([row.example for row in held_out], spec.evaluation) if spec.evaluation.generate else [],
        report=rows.report,
        advice=advice,
    )


def _find_advice(rows: TrainingRows, held_out: Sequence[Row]) -> list[Advice]:
    report = rows.report
    rollouts = Rollouts(report.responses, report.base_right, report.cut_off) if report else None
    return advise(rows.rows, held_out, rollouts)


def _prepared(rows: Sequence[Row], rendered: Sequence[RenderedExample]) -> list[PreparedExample]:
    return [PreparedExample(row.line, example) for row, example in zip(rows, rendered, strict=True)]


def _keep_fit(
    workspace: Path, rows: TrainingRows, rendered: Mapping[int, RenderedExample], observer: Observer
) -> list[Row]:
    """Return the rows that could be rendered, built ones numbered anew and kept in the workspace."""
    fit = [rows.rows[position] for position in rendered]
    if rows.report is None:
        return fit
    if rows.is_new:
        fit = [Row(line, row.example) for line, row in enumerate(fit, start=1)]
    unfit = len(rows.rows) - len(fit)
    if unfit:
        reason = "they are longer than max_seq_length, or hold special tokens of the model"
        if not fit:
            raise StageError("rollout_failed", f"none of {unfit} built rows can be trained: {reason}", "rollout")
        observer.emit(MessageEvent("warn", f"{unfit} built rows are left out: {reason}.", {"unfit": unfit}))
    report = msgspec.structs.replace(rows.report, unfit=rows.report.unfit + unfit)
    KeptRows.of_workspace(workspace).save(fit, report, is_new=rows.is_new)
    return fit


def _criticised(example: Example) -> Example:
    """Return the row with ``correct`` filled in where a judgment tells that it is wrong."""
    if isinstance(example, NLFTExample) and example.judgment is not None and example.correct is None:
        return msgspec.structs.replace(example, correct=False)
    return example


def _read_graded(path: Path, param: str, settings: EvaluationSettings) -> list[Row]:
    with path.open("rb") as file:
        return [Row(row.line, _graded(row.example, settings)) for row in read_rows(file, param)]


def _graded(example: Example, settings: EvaluationSettings) -> Example:
    """Return the row with ``correct`` filled in: a criticised response is wrong, any other is compared."""
    example = _criticised(example)
    if not isinstance(example, NLFTExample) or example.correct is not None:
        return example
    if example.answer is None or example.reference is None:
        return example
    score = grade(settings.grader, sample_response(example)).score
    return msgspec.structs.replace(example, correct=score >= settings.pass_threshold)


def _require(method: Method, rows: Sequence[Row], param: str, *, before_building: bool = False) -> None:
    """Refuse rows that the method cannot train; before building, a response may still be missing."""
    problems = [
        problem
        for row in rows
        for problem in find_problems(method, row.example, row.line)
        if not (before_building and problem.code == "missing_response")
    ]
    if problems:
        raise DatasetError(tuple(problems[:MOST_PROBLEMS]), len(problems), param)
