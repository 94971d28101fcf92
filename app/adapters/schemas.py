"""Adapters and their files on the wire."""

from typing import Any, Literal

from pydantic import Field

from app.core.schemas import Schema, UnixTime


class ArtifactRead(Schema):
    """One file of an adapter."""

    object: Literal["artifact"] = "artifact"
    name: str
    bytes: int
    sha256: str = Field(description="Also the ETag of the download.")
    url: str = Field(description="Path of the download on this server.")


class ArtifactList(Schema):
    """All files of an adapter, sorted by name."""

    object: Literal["list"] = "list"
    data: list[ArtifactRead]
    has_more: Literal[False] = False


class AdapterRead(Schema):
    """A finished adapter."""

    id: str
    object: Literal["adapter"] = "adapter"
    created_at: UnixTime
    model: str = Field(description="Name of the tuned model.")
    base_model: str
    base_model_digest: str = Field(description="sha256 that pins the base model's files.")
    fine_tuning_job_id: str
    metrics: dict[str, Any] = Field(description="Final figures of the job.")
    bytes: int = Field(description="Size of all files together.")
