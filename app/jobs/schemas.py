"""Fine-tuning jobs on the wire: OpenAI's objects field by field; our additions in ``service`` and the method block."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator

from app.core.pagination import PageQuery
from app.core.schemas import Schema, UnixTime
from app.jobs.storable import find_fault
from app.methods.documents import Documented, MethodDocument
from worker.training.spec import (
    EvaluationSettings,
    Judge,
    LoraSettings,
    MixtureSettings,
    RationalizationSettings,
    RolloutSettings,
    RowGrader,
    SaliencySettings,
    SpecModel,
)

MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]


class JobCreate(SpecModel):
    """Body of a create call. ``method`` and ``hyperparameters`` are read by ``app.jobs.resolution``."""

    model: str = Field(min_length=1, description="Id of an allowed base model, as listed by `GET /v1/models`.")
    training_file: str = Field(min_length=1, description="Id of a file with purpose `fine-tune`.")
    validation_file: str | None = Field(None, min_length=1, description="Rows to measure on; never trained.")
    method: Annotated[dict[str, Any], Documented(MethodDocument)] | None = Field(
        None, description="Training method and its settings; `supervised` when absent."
    )
    hyperparameters: dict[str, Any] | None = Field(
        None,
        description="Earlier spelling of `method.supervised.hyperparameters`.",
        json_schema_extra={"deprecated": True},  # not deprecated=True, which warns on every read
    )
    suffix: str | None = Field(None, min_length=1, max_length=64, description="Becomes part of the tuned model's name.")
    seed: int | None = Field(None, ge=0, le=2**31 - 1, description="Drawn at random when absent.")
    integrations: list[dict[str, Any]] | None = Field(None, description="None is offered: null or an empty list.")
    metadata: Metadata | None = Field(None, description="At most 16 pairs, to find jobs by.")

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_unstorable(cls, value: Any) -> Any:
        if fault := find_fault(value):
            raise ValueError(fault)
        return value


class MethodSettings(SpecModel):
    """What stands in a job's method block, before "auto" is resolved."""

    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    adapter: LoraSettings | None = None
    evaluation: EvaluationSettings | None = None
    saliency: SaliencySettings | None = None
    n_gpus: Annotated[int, Field(ge=1)] | None = None
    rollout: RolloutSettings | None = None
    rationalization: RationalizationSettings | None = None
    grader: RowGrader | None = None
    pass_threshold: float | None = None
    judge: Judge | None = None
    mixture: MixtureSettings | None = None
    prompts: str | dict[str, Any] | None = None


class JobHyperparameters(Schema):
    """The three values that OpenAI's job object shows at the top."""

    n_epochs: int | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]


class JobError(Schema):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class AutoValue(Schema):
    """A value that "auto" stands for; "auto" itself until the rows are built."""

    value: Any
    reason: str


class JobService(Schema):
    """What this service says about a job beyond OpenAI's object."""

    phase: str | None = Field(description="What a running attempt is doing: preparing, scoring, training, ...")
    progress: dict[str, Any] | None = Field(description="Latest figures of the running attempt.")
    attempt: int = Field(description="How often the job was started; 0 while it waits for the first time.")
    started_at: UnixTime | None
    cancel_requested_at: UnixTime | None
    base_model_digest: str = Field(description="sha256 that pins the base model's files.")
    built_file: str | None = Field(
        description="File of the rows that were built from raw ones and trained; usable as training_file."
    )
    auto: dict[str, AutoValue] | None = Field(description='What every "auto" stands for, and why.')
    prediction: dict[str, Any] | None = Field(description="What the job was expected to take, when it was created.")
    outcome: dict[str, Any] | None = Field(description="What it took, once it has succeeded.")


class JobRead(Schema):
    """A `fine_tuning.job`."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: UnixTime
    finished_at: UnixTime | None
    estimated_finish: UnixTime | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: str
    hyperparameters: JobHyperparameters
    method: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str] = Field(description="Metrics table (CSV), then the adapter (tar).")
    trained_tokens: int | None
    error: JobError | None
    integrations: list[dict[str, Any]] | None
    seed: int
    metadata: dict[str, str] | None
    service: JobService


class EstimateRead(Schema):
    """What a job would take."""

    object: Literal["fine_tuning.job.estimate"] = "fine_tuning.job.estimate"
    model: str
    method: dict[str, Any] = Field(description='With "auto" only where it follows from rows that are yet to be built.')
    auto: dict[str, AutoValue]
    estimate: dict[str, dict[str, Any]] = Field(description="Figures by name, each with `value` and `basis`.")
    data: dict[str, Any] = Field(description="The files' reports, and `advice` with lines.")


class EventRead(Schema):
    """A `fine_tuning.job.event`."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: UnixTime
    level: str
    message: str
    type: str
    data: dict[str, Any] | None


class CheckpointMetrics(Schema):
    """Losses are means over examples in nats, accuracies lie in [0, 1]; what was not measured is null."""

    step: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class CheckpointRead(Schema):
    """A `fine_tuning.job.checkpoint`."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: UnixTime
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: CheckpointMetrics


class JobQuery(PageQuery):
    """Query of the job list. ``metadata[key]=value`` pairs arrive as extra fields; ``app.jobs.filters`` reads them."""

    model_config = ConfigDict(extra="allow")

    metadata: Literal["null"] | None = Field(None, description="`null`: jobs without metadata.")


class EventQuery(PageQuery):
    """Query of the event list, or of the stream of events."""

    stream: bool = Field(False, description="Send events as they happen, oldest first, from `after` on.")


class CheckpointQuery(PageQuery):
    """Query of the checkpoint list."""

    limit: int = Field(10, ge=1, le=100, description="Most checkpoints to return.")
