"""The methods catalogue on the wire."""

from typing import Any, Literal

from pydantic import Field

from app.core.schemas import Schema


class RowRead(Schema):
    """One row format that a method trains on."""

    format: str = Field(description="Name of the format, as in a file's report.")
    json_schema: dict[str, Any] = Field(description="JSON Schema of one line of the file.")


class MethodRead(Schema):
    """What a client needs to know in order to use a training method."""

    id: str = Field(description="Value of `method.type` in a job.")
    object: Literal["fine_tuning.method"] = "fine_tuning.method"
    summary: str
    paper: str = Field(description="Where the method is described.")
    hyperparameters: dict[str, Any] = Field(
        description='JSON Schema of `method.<id>.hyperparameters`; every property also accepts "auto".'
    )
    defaults: dict[str, Any] = Field(
        description='What "auto" stands for where neither the data nor the base model has a say.'
    )
    adapter: dict[str, Any] = Field(description="JSON Schema of `method.<id>.adapter`.")
    adapter_defaults: dict[str, Any] = Field(description="Adapter settings of a job that names none.")
    evaluation: dict[str, Any] = Field(description="JSON Schema of `method.<id>.evaluation`.")
    saliency: dict[str, Any] = Field(description="JSON Schema of `method.<id>.saliency`.")
    building: dict[str, Any] = Field(
        description="JSON Schema of `rollout`, `grader`, `pass_threshold`, `judge` and `mixture` in `method.<id>`."
    )
    building_defaults: dict[str, Any] = Field(description="How rows that lack something are built by default.")
    rows: list[RowRead]


class MethodList(Schema):
    """Every registered method."""

    object: Literal["list"] = "list"
    data: list[MethodRead]
    has_more: Literal[False] = False


class EndpointRead(Schema):
    """A model endpoint that the operator has set up."""

    id: str = Field(description="What a judge or grader writes as `model`, alone or followed by `/MODEL`.")
    object: Literal["fine_tuning.endpoint"] = "fine_tuning.endpoint"
    model: str | None = Field(description="Asked when the endpoint is named alone.")
    models: list[str] = Field(description="Every model that may be named; `*` stands for any.")
    max_requests: int = Field(description="Requests that one job may send.")
    max_tokens: int = Field(description="Prompt and answer tokens that one job may be charged.")


class EndpointList(Schema):
    """Every endpoint."""

    object: Literal["list"] = "list"
    data: list[EndpointRead]
    has_more: Literal[False] = False
