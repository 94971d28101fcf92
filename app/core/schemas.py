"""Base of every wire schema, and the field types that several domains share."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Schema(BaseModel):
    """Base of what goes over the wire: unknown fields are refused, values do not change, ORM rows are accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True, protected_namespaces=())


def _seconds(value: Any) -> Any:
    return int(value.timestamp()) if isinstance(value, datetime) else value


UnixTime = Annotated[int, BeforeValidator(_seconds)]
"""Whole seconds since 1970; built from an aware datetime."""


class Deleted(Schema):
    """Answer to a delete."""

    id: str
    object: str
    deleted: Literal[True] = True
