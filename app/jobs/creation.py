"""Turns a create request into a job whose ``spec`` holds everything that decides the result."""

import re
import secrets
import unicodedata
from dataclasses import dataclass, replace

from app.completions.configuration import Endpoints
from app.core import ids
from app.core.errors import InvalidRequestError
from app.db.models.fine_tuning_job import FineTuningJob
from app.jobs.building import resolve_building
from app.jobs.deduplication import CreateAttempt
from app.jobs.inputs import JobInputs, NamedRows, find_inputs
from app.jobs.resolution import RequestedMethod, ResolvedMethod, read_method, resolve_method
from app.jobs.schemas import JobCreate
from worker.training.methods.auto import RunFacts
from worker.training.spec import BaseModelRef, BuildingSettings, MixtureSettings, TrainingSpec

_SEEDS = 2**31
_LONGEST_SUFFIX = 64


@dataclass(frozen=True, slots=True)
class CreateCall:
    """A create call: its identity and what it asks for."""

    attempt: CreateAttempt
    body: JobCreate


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is not in the database yet, and the rows that it refers to."""

    job: FineTuningJob
    inputs: JobInputs


def build_job(rows: NamedRows, call: CreateCall, endpoints: Endpoints, *, most_gpus: int) -> NewJob:
    """Return the job that ``call`` asks for; ``rows`` are those that it names, and maybe others.

    ``most_gpus`` is how many devices the operator's workers have for one job.

    Raises:
        InvalidRequestError: A file, the base model or a setting is unfit; ``param`` names it.
        NotFoundError: There is no such base model.
    """
    attempt, body = call.attempt, call.body
    requested = read_method(body)
    _refuse_integrations(body)
    _refuse_too_many_gpus(requested, most_gpus)
    suffix = _safe_suffix(body.suffix)
    inputs = find_inputs(rows, attempt.project_id, body, requested.method)
    building = resolve_building(requested, inputs.training_file, endpoints)
    facts = _facts(inputs, building)
    resolved = resolve_method(requested, facts, is_validated=inputs.validation_file is not None)
    resolved = replace(resolved, building=building)
    job_id = ids.new_id(ids.JOB)
    seed = secrets.randbelow(_SEEDS) if body.seed is None else body.seed
    job = FineTuningJob(
        id=job_id,
        project_id=attempt.project_id,
        model=body.model,
        base_model_id=inputs.base_model.id,
        training_file_id=inputs.training_file.id,
        validation_file_id=inputs.validation_file.id if inputs.validation_file else None,
        suffix=suffix,
        seed=seed,
        job_metadata=body.metadata,
        method=resolved.to_json(),
        n_gpus=resolved.n_gpus,
        auto=resolved.auto,
        integrations=body.integrations,
        spec=_freeze(job_id, seed, inputs, resolved).model_dump(mode="json"),
        request_digest=attempt.digest,
        request_retry_count=attempt.retry_count,
    )
    return NewJob(job, inputs)


def _freeze(job_id: str, seed: int, inputs: JobInputs, resolved: ResolvedMethod) -> TrainingSpec:
    base_model = inputs.base_model
    return TrainingSpec(
        job_id=job_id,
        base_model=BaseModelRef(name=base_model.id, path=base_model.path, digest=base_model.digest),
        method=resolved.name,
        hyperparameters=resolved.values,
        adapter=resolved.adapter,
        evaluation=resolved.evaluation,
        building=resolved.building or BuildingSettings(),
        saliency=resolved.saliency,
        has_validation_file=inputs.validation_file is not None,
        seed=seed,
        n_gpus=resolved.n_gpus,
    )


def _refuse_too_many_gpus(requested: RequestedMethod, most_gpus: int) -> None:
    wanted = requested.settings.n_gpus or 1
    if wanted > most_gpus:
        param = f"{requested.block}.n_gpus"
        message = f"'{param}' is {wanted}, but a job can have at most {most_gpus} of this server's devices."
        raise InvalidRequestError(message, param=param, code="invalid_value")


def _facts(inputs: JobInputs, building: BuildingSettings | None) -> RunFacts:
    """Return what "auto" can depend on before a row was looked at: the counts of the upload."""
    counts = (inputs.training_file.report or {}).get("counts", {})
    is_mixed = building is not None and building.mixture != MixtureSettings()
    return RunFacts(
        rows=inputs.training_rows,
        model_parameters=inputs.base_model.parameters,
        context_length=inputs.base_model.context_length,
        rows_are_final=not is_mixed and not counts.get("without_response"),
    )


def _safe_suffix(suffix: str | None) -> str | None:
    """Return the suffix as it appears in a model name: ASCII letters, digits, dot, underscore and hyphen."""
    if suffix is None:
        return None
    plain = unicodedata.normalize("NFKD", suffix).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.")[:_LONGEST_SUFFIX]
    if not safe:
        message = "The suffix needs at least one ASCII letter or digit, because it becomes part of a model name."
        raise InvalidRequestError(message, param="suffix", code="invalid_value")
    return safe


def _refuse_integrations(body: JobCreate) -> None:
    if body.integrations:
        kind = body.integrations[0].get("type")
        message = f"The integration {kind!r} is not configured on this server; leave 'integrations' empty."
        raise InvalidRequestError(message, param="integrations", code="integration_not_configured")
