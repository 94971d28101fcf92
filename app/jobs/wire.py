"""From rows to the objects of the API."""

from collections.abc import Mapping
from typing import Any

from app.db.models.checkpoint import Checkpoint
from app.db.models.fine_tuning_job import FineTuningJob
from app.db.models.job_event import JobEvent
from app.jobs.schemas import CheckpointMetrics, CheckpointRead, EventRead, JobHyperparameters, JobRead


def read_job(job: FineTuningJob) -> JobRead:
    """Return a job as the API shows it."""
    return JobRead.model_validate(
        {
            "id": job.id,
            "created_at": job.created_at,
            "finished_at": job.finished_at,
            "estimated_finish": job.estimated_finish,
            "model": job.model,
            "fine_tuned_model": job.fine_tuned_model,
            "organization_id": job.project_id,
            "status": job.status,
            "hyperparameters": _known(JobHyperparameters, job.method[job.method["type"]]["hyperparameters"]),
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
                "started_at": job.started_at,
                "cancel_requested_at": job.cancel_requested_at,
                "base_model_digest": job.spec["base_model"]["digest"],
                "built_file": job.built_file_id,
                "auto": job.auto,
                "prediction": job.prediction,
                "outcome": job.outcome,
            },
        }
    )


def read_event(event: JobEvent) -> EventRead:
    """Return an event as the API shows it."""
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
            "metrics": {**_known(CheckpointMetrics, checkpoint.metrics), "step": checkpoint.step},
        }
    )


def _known(schema: type[JobHyperparameters | CheckpointMetrics], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in schema.model_fields if name in values}


def _error(job: FineTuningJob) -> dict[str, Any] | None:
    if job.error_code is None:
        return None
    return {"code": job.error_code, "message": job.error_message, "param": job.error_param}
