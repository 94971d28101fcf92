"""From the body of a preview to what a worker computes: model found, rows checked and graded, settings resolved."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequestError, NotFoundError
from app.core.field_paths import invalid_request
from app.core.settings import Settings
from app.db.models import BaseModel, SaliencyPreview
from app.saliency import repository
from app.saliency.schemas import PreviewCreate
from worker.training.data.examples import NLFTExample
from worker.training.data.reader import ReadLimits, Row, RowReader
from worker.training.errors import RowProblem
from worker.training.graders import grade, sample_of
from worker.training.methods import METHODS
from worker.training.methods.auto import RunFacts
from worker.training.methods.base import Hyperparameters, Method, find_problems
from worker.training.previews.protocol import PreviewRequest
from worker.training.spec import BaseModelRef

EXAMPLES = "examples"
_PROMPTS = "prompts"
_SHOWN = 3
_MOST_LISTED = 100


def build_preview(session: Session, project_id: str, body: PreviewCreate, settings: Settings) -> SaliencyPreview:
    """Return a preview that is not in the database yet; it lacks its id and its time limit.

    Raises:
        InvalidRequestError: An example, the method or a setting is unfit; ``param`` names it.
        NotFoundError: The project knows no such model.
    """
    method = _find_method(body.method)
    if len(body.examples) > settings.max_preview_examples:
        raise InvalidRequestError(
            f"A preview takes at most {settings.max_preview_examples} examples, and these are {len(body.examples)}.",
            param=EXAMPLES,
            code="too_many_examples",
        )
    rows = _read_examples(body.examples, method, settings)
    base_model, adapter_id = _find_model(session, project_id, body.model)
    hyperparameters = _resolve(body, method, base_model)
    request = PreviewRequest(
        owner=project_id,
        model=body.model,
        base_model=BaseModelRef(name=base_model.id, path=base_model.path, digest=base_model.digest),
        method=method.name,
        hyperparameters=hyperparameters.model_dump(mode="json"),
        rows=b"\n".join(msgspec.json.encode(_graded(row, body).example) for row in rows).decode(),
        most_tokens=settings.max_preview_tokens,
    )
    return SaliencyPreview(project_id=project_id, adapter_id=adapter_id, request=request.model_dump_json().encode())


def refuse_examples(problems: Sequence[Mapping[str, Any]], total: int) -> InvalidRequestError:
    """Return the error for examples that cannot be previewed; a problem's ``line`` is the example's place, from 1."""
    listed = [{**problem, "path": place_of(problem["line"], problem["path"])} for problem in problems]
    sentences = [f"{problem['path']}: {problem['reason']}" for problem in listed[:_SHOWN]]
    more = f" (and {total - _SHOWN} more)" if total > _SHOWN else ""
    return InvalidRequestError(
        f"{'; '.join(sentences)}{more}.",
        param=listed[0]["path"],
        code="invalid_examples",
        details={"problems": listed, "total_problems": total},
    )


def place_of(line: int, path: str) -> str:
    """Return where in the body the field ``path`` of the row on 1-based ``line`` stands."""
    place = f"{EXAMPLES}[{line - 1}]"
    return f"{place}.{path}" if path else place


def _find_method(name: str) -> Method:
    if name not in METHODS:
        message = f"The method '{name}' is not offered. Known methods: {', '.join(METHODS)}."
        raise InvalidRequestError(message, param="method", code="unknown_method")
    return METHODS[name]


def _find_model(session: Session, project_id: str, name: str) -> tuple[BaseModel, str | None]:
    """Return the base model and, where ``name`` is a tuned one, the id of its adapter."""
    base_model = repository.find_base_model(session, name)
    if base_model is not None:
        return base_model, None
    adapter = repository.find_adapter(session, project_id, name)
    tuned_from = None if adapter is None else repository.find_base_model(session, adapter.base_model_id)
    if adapter is None or tuned_from is None:
        names = ", ".join(repository.list_model_names(session)) or "none yet"
        message = f"The model '{name}' does not exist or you do not have access to it. Base models: {names}."
        raise NotFoundError(message, param="model", code="model_not_found")
    if tuned_from.digest != adapter.base_model_digest:
        message = f"The base model of '{name}' has changed since it was tuned; its saliency cannot be shown."
        raise InvalidRequestError(message, param="model", code="base_model_changed")
    return tuned_from, adapter.id


def _read_examples(examples: Sequence[Mapping[str, Any]], method: Method, settings: Settings) -> list[Row]:
    reader = RowReader(ReadLimits(line_bytes=settings.max_line_bytes))
    rows = list(reader.rows(json.dumps(example).encode() + b"\n" for example in examples))
    report = reader.report()
    problems = list(report.problems)
    if not problems:
        problems = [problem for row in rows for problem in find_problems(method, row.example, row.line)]
    if problems:
        listed = [_describe(problem) for problem in problems[:_MOST_LISTED]]
        raise refuse_examples(listed, max(report.total_problems, len(problems)))
    return rows


def _describe(problem: RowProblem) -> dict[str, Any]:
    return {"line": problem.line, "path": problem.path, "code": problem.code, "reason": problem.reason}


def _graded(row: Row, body: PreviewCreate) -> Row:
    """Return the row with ``correct`` filled in as a job would: what is criticised is wrong, the rest is graded."""
    example = row.example
    if not isinstance(example, NLFTExample) or example.correct is not None or not example.response:
        return row
    if example.judgment is not None:
        return Row(row.line, msgspec.structs.replace(example, correct=False))
    if example.reference is None:
        return row
    score = grade(body.grader, sample_of(example, example.response)).score
    return Row(row.line, msgspec.structs.replace(example, correct=score >= body.pass_threshold))


def _resolve(body: PreviewCreate, method: Method, base_model: BaseModel) -> Hyperparameters:
    requested = dict(body.hyperparameters or {})
    if body.prompts is not None:
        if _PROMPTS not in method.hyperparameters_type.model_fields:
            raise InvalidRequestError(f"Unknown parameter: '{_PROMPTS}'.", param=_PROMPTS, code="unknown_parameter")
        if requested.setdefault(_PROMPTS, body.prompts) != body.prompts:
            message = f"'{_PROMPTS}' and 'hyperparameters.{_PROMPTS}' contradict each other."
            raise InvalidRequestError(message, param=_PROMPTS, code="invalid_value")
    facts = RunFacts(
        rows=len(body.examples), model_parameters=base_model.parameters, context_length=base_model.context_length
    )
    try:
        return method.hyperparameters_type.resolve(requested, facts)
    except ValidationError as error:
        raise invalid_request(error, method.hyperparameters_type, prefix="hyperparameters") from error
