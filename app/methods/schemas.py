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
    rows: list[RowRead]


class MethodList(Schema):
    """Every registered method."""

    object: Literal["list"] = "list"
    data: list[MethodRead]
    has_more: Literal[False] = False
