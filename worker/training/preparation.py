"""From a workspace to rows that can be trained: read, graded, checked against method and tokenizer, tokenized once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from pydantic import ValidationError

from worker.training.data.examples import Example, NLFTExample
from worker.training.data.reader import Row, read_rows
from worker.training.data.screening import MOST_PROBLEMS, check_rows
from worker.training.engine.scoring import PreparedExample
from worker.training.errors import DatasetError, SpecError
from worker.training.evaluation import select_rows
from worker.training.graders import grade, sample_of
from worker.training.methods import METHODS
from worker.training.methods.auto import RunFacts
from worker.training.methods.base import Hyperparameters, Method, find_problems
from worker.training.spec import TRAINING_FILE, VALIDATION_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from worker.training.data.rendering import ModelRenderer
    from worker.training.methods.base import Probe
    from worker.training.model.base_model import LoadedModel
    from worker.training.spec import EvaluationSettings, TrainingSpec


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: a method and its complete hyperparameters."""

    method: Method
    hyperparameters: Hyperparameters


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Rows ready for the engine.

    Attributes:
        training: Rendered training rows.
        validation: Rendered validation rows, those that the method can compute a loss for.
        probed: Training rows rendered for the method's probe.
        asked: Validation rows to generate answers for.
    """

    training: list[PreparedExample]
    validation: list[PreparedExample]
    probed: list[PreparedExample]
    asked: list[NLFTExample]


def read_training_rows(workspace: Path, spec: TrainingSpec) -> list[Row]:
    """Return the graded rows of the training file.

    Raises:
        DatasetError: A line is not a sound row.
    """
    return _read(workspace / TRAINING_FILE, "training_file", spec.evaluation)


def choose_recipe(spec: TrainingSpec, loaded: LoadedModel, rows: int) -> Recipe:
    """Return the spec's method with complete hyperparameters for ``rows`` training rows.

    Raises:
        SpecError: The method is unknown, or a hyperparameter is unknown or out of range.
    """
    method = METHODS.get(spec.method)
    if method is None:
        raise SpecError(f"there is no method {spec.method}; choose one of {', '.join(METHODS)}", "method.type")
    facts = RunFacts(rows, loaded.parameters, loaded.context_length)
    try:
        return Recipe(method, method.hyperparameters_type.resolve(spec.hyperparameters, facts))
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        place = ".".join(["method", method.name, "hyperparameters", *map(str, fault["loc"])])
        raise SpecError(f"{place}: {fault['msg']}", place) from error


def prepare_data(
    workspace: Path,
    spec: TrainingSpec,
    loaded: LoadedModel,
    recipe: Recipe,
    renderer: ModelRenderer,
    *,
    rows: Sequence[Row],
) -> PreparedData:
    """Return everything that the run scores, tokenized.

    Args:
        workspace: The run's folder.
        spec: What to run.
        loaded: The base model.
        recipe: Method and hyperparameters.
        renderer: Of the base model's tokenizer.
        rows: The training file's rows.

    Raises:
        DatasetError: A row cannot be trained with this method, or does not suit the base model.
    """
    method = recipe.method
    _require(method, rows, "training_file")
    longest = min(recipe.hyperparameters.max_seq_length, loaded.context_length)

    def render(chosen: Sequence[Row], source: Method | Probe | None, param: str) -> list[PreparedExample]:
        if source is None:
            return []
        one = partial(source.render, renderer=renderer, hyperparameters=recipe.hyperparameters)
        rendered = check_rows(chosen, one, loaded.tokenizer, max_tokens=longest, param=param)
        return [PreparedExample(row.line, example) for row, example in zip(chosen, rendered, strict=True)]

    held_out: list[Row] = []
    if spec.has_validation_file:
        held_out = _read(workspace / VALIDATION_FILE, "validation_file", spec.evaluation)
    scorable = [row for row in held_out if not find_problems(method, row.example, row.line)]
    sample = [] if method.probe is None else rows[: method.probe.sample_size]
    return PreparedData(
        training=render(rows, method, "training_file"),
        validation=render(scorable, method, "validation_file"),
        probed=render(sample, method.probe, "training_file"),
        asked=select_rows([row.example for row in held_out], spec.evaluation) if spec.evaluation.generate else [],
    )


def _read(path: Path, param: str, settings: EvaluationSettings) -> list[Row]:
    with path.open("rb") as file:
        return [Row(row.line, _graded(row.example, settings)) for row in read_rows(file, param)]


def _graded(example: Example, settings: EvaluationSettings) -> Example:
    """Return the row with ``correct`` filled in: a criticised response is wrong, any other is compared."""
    if not isinstance(example, NLFTExample) or example.correct is not None or example.response is None:
        return example
    if example.judgment is not None:
        return msgspec.structs.replace(example, correct=False)
    if example.reference is None:
        return example
    score = grade(settings.grader, sample_of(example, example.response)).score
    return msgspec.structs.replace(example, correct=score >= settings.pass_threshold)


def _require(method: Method, rows: Sequence[Row], param: str) -> None:
    problems = [problem for row in rows for problem in find_problems(method, row.example, row.line)]
    if problems:
        raise DatasetError(tuple(problems[:MOST_PROBLEMS]), len(problems), param)
