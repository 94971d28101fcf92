"""Wire objects of projects and keys, in the shape of the OpenAI administration API."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.auth.scopes import PROJECT_SCOPES
from app.core.schemas import Schema, UnixTime
from app.db.models import ApiKey

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)]


class ProjectCreate(Schema):
    """A project to create."""

    name: Name


class ProjectObject(Schema):
    """A project."""

    id: str
    object: Literal["organization.project"] = "organization.project"
    name: str
    created_at: UnixTime
    archived_at: None = None
    status: Literal["active"] = "active"


class KeyCreate(Schema):
    """A key to create."""

    name: Name
    scopes: list[str] = Field(list(PROJECT_SCOPES), description="What the key may do; default: all of its project.")
    expires_in_seconds: int | None = Field(None, ge=60, description="Lifetime; null: it never expires.")


class KeyOwner(Schema):
    """Keys here belong to their project, not to a person."""

    type: Literal["service_account"] = "service_account"


class KeyObject(Schema):
    """A key as it may be shown again and again."""

    id: str
    object: Literal["organization.project.api_key"] = "organization.project.api_key"
    name: str
    redacted_value: str
    created_at: UnixTime
    last_used_at: UnixTime | None
    expires_at: UnixTime | None
    scopes: list[str]
    owner: KeyOwner = KeyOwner()

    @classmethod
    def from_row(cls, row: ApiKey, redacted_value: str) -> "KeyObject":
        """Return the wire form of ``row``."""
        return cls(
            id=row.id,
            name=row.name,
            redacted_value=redacted_value,
            created_at=row.created_at,
            last_used_at=row.last_used_at,
            expires_at=row.expires_at,
            scopes=row.scopes,
        )


class CreatedKeyObject(KeyObject):
    """A new key with its ``value``, which is shown this once."""

    value: str
