"""Every table, imported here so that Alembic and the metadata see them all."""

from app.db.models.adapter import Adapter
from app.db.models.api_key import ApiKey
from app.db.models.artifact import Artifact
from app.db.models.base_model import BaseModel
from app.db.models.blob import Blob
from app.db.models.checkpoint import Checkpoint
from app.db.models.completion_answer import CompletionAnswer, CompletionSpending
from app.db.models.file import File, FileHold
from app.db.models.fine_tuning_job import FineTuningJob, JobPhase, JobStatus
from app.db.models.idempotency_key import IdempotencyKey
from app.db.models.job_attempt import JobAttempt
from app.db.models.job_event import JobEvent
from app.db.models.project import Project
from app.db.models.saliency_preview import SaliencyPreview
from app.db.models.saliency_snapshot import SaliencySnapshot
from app.db.models.stage_part import StagePart

__all__ = [
    "Adapter",
    "ApiKey",
    "Artifact",
    "BaseModel",
    "Blob",
    "Checkpoint",
    "CompletionAnswer",
    "CompletionSpending",
    "File",
    "FileHold",
    "FineTuningJob",
    "IdempotencyKey",
    "JobAttempt",
    "JobEvent",
    "JobPhase",
    "JobStatus",
    "Project",
    "SaliencyPreview",
    "SaliencySnapshot",
    "StagePart",
]
