"""From rows to the objects of the API."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.db.base import Json
from app.db.models.checkpoint import Checkpoint
from app.db.models.fine_tuning_job import FineTuningJob
from app.jobs.schemas import CheckpointMetrics, CheckpointRead, EventRead, JobHyperparameters

_TOP_LEVEL = tuple(JobHyperparameters.model_fields)

JOB_COLUMNS = (
    FineTuningJob.id,
    FineTuningJob.created_at,
    FineTuningJob.finished_at,
    FineTuningJob.estimated_finish,
    FineTuningJob.model,
    FineTuningJob.fine_tuned_model,
    FineTuningJob.project_id,
    FineTuningJob.status,
    FineTuningJob.method,
    FineTuningJob.training_file_id,
    FineTuningJob.validation_file_id,
    FineTuningJob.result_files,
    FineTuningJob.trained_tokens,
    FineTuningJob.error_code,
    FineTuningJob.error_message,
    FineTuningJob.error_param,
    FineTuningJob.integrations,
    FineTuningJob.seed,
    FineTuningJob.job_metadata.label("job_metadata"),
    FineTuningJob.phase,
    FineTuningJob.progress,
    FineTuningJob.attempt,
    FineTuningJob.started_at,
    FineTuningJob.cancel_requested_at,
    FineTuningJob.spec["base_model"]["digest"].astext.label("base_model_digest"),
    FineTuningJob.built_file_id,
    FineTuningJob.auto,
    FineTuningJob.prediction,
    FineTuningJob.outcome,
)
"""What ``read_job`` reads; a row of these stands for a job where nothing else of it is needed."""


def read_job(job: Any) -> Json:
    """Return a ``FineTuningJob``, or a row of ``JOB_COLUMNS``, as the API shows it: what ``JobRead`` documents."""
    hyperparameters = job.method[job.method["type"]]["hyperparameters"]
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": _seconds(job.created_at),
        "finished_at": _seconds(job.finished_at),
        "estimated_finish": _seconds(job.estimated_finish),
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": job.project_id,
        "status": job.status,
        "hyperparameters": {name: hyperparameters[name] for name in _TOP_LEVEL},
        "method": job.method,
        "training_file": job.training_file_id,
        "validation_file": job.validation_file_id,
        "result_files": job.result_files,
        "trained_tokens": job.trained_tokens,
        "error": _error(job),
        "integrations": job.integrations,
        "seed": job.seed,
        "metadata": job.job_metadata,
        "service": {
            "phase": job.phase,
            "progress": job.progress,
            "attempt": job.attempt,
            "started_at": _seconds(job.started_at),
            "cancel_requested_at": _seconds(job.cancel_requested_at),
            "base_model_digest": job.base_model_digest,
            "built_file": job.built_file_id,
            "auto": job.auto,
            "prediction": job.prediction,
            "outcome": job.outcome,
        },
    }


def read_event(event: Any) -> EventRead:
    """Return a ``JobEvent``, or a row of its columns, as the API shows it."""
    return EventRead.model_validate(event)


def read_checkpoint(checkpoint: Checkpoint, model: str) -> CheckpointRead:
    """Return a checkpoint as the API shows it; ``model`` is the name of its job's tuned model."""
    return CheckpointRead.model_validate(
        {
            "id": checkpoint.id,
            "created_at": checkpoint.created_at,
            "fine_tuning_job_id": checkpoint.job_id,
            "fine_tuned_model_checkpoint": f"{model}:ckpt-step-{checkpoint.step}",
            "step_number": checkpoint.step,
            "metrics": {**_known(checkpoint.metrics), "step": checkpoint.step},
        }
    )


def _known(values: Mapping[str, Any]) -> Json:
    return {name: values[name] for name in CheckpointMetrics.model_fields if name in values}


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _error(job: Any) -> Json | None:
    if job.error_code is None:
        return None
    return {"code": job.error_code, "message": job.error_message, "param": job.error_param}
