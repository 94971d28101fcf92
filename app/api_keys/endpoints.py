"""Administration routes of projects and keys. The scope ``admin`` reaches every project."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter

from app.api_keys import service
from app.api_keys.schemas import CreatedKeyObject, KeyCreate, KeyObject, ProjectCreate, ProjectObject
from app.core.pagination import Page, build_page
from app.core.schemas import Deleted
from app.dependencies import Admin, DbSession, PageParams, RequestSettings

router = APIRouter(tags=["administration"])

_KEYS = "/v1/organization/projects/{project_id}/api_keys"


@router.post("/v1/organization/projects")
def create_project(body: ProjectCreate, _key: Admin, session: DbSession) -> ProjectObject:
    """Create a project."""
    return ProjectObject.model_validate(service.create_project(session, body.name))


@router.get("/v1/organization/projects")
def list_projects(_key: Admin, session: DbSession, page: PageParams) -> Page[ProjectObject]:
    """List every project, newest first."""
    rows = service.list_projects(session, page)
    return build_page([ProjectObject.model_validate(row) for row in rows], limit=page.limit)


@router.get("/v1/organization/projects/{project_id}")
def get_project(project_id: str, _key: Admin, session: DbSession) -> ProjectObject:
    """Return one project."""
    return ProjectObject.model_validate(service.get_project(session, project_id))


@router.post(_KEYS)
def create_key(
    project_id: str, body: KeyCreate, _key: Admin, session: DbSession, settings: RequestSettings
) -> CreatedKeyObject:
    """Create a key of a project. Its ``value`` is shown this once and stored nowhere."""
    lifetime = body.expires_in_seconds
    created = service.create_key(
        session,
        settings.api_key_pepper.get_secret_value(),
        project_id,
        name=body.name,
        scopes=body.scopes,
        expires_at=datetime.now(UTC) + timedelta(seconds=lifetime) if lifetime else None,
    )
    shown = KeyObject.from_row(created.row, service.redacted(created.row))
    return CreatedKeyObject(**shown.model_dump(), value=created.text)


@router.get(_KEYS)
def list_keys(project_id: str, _key: Admin, session: DbSession, page: PageParams) -> Page[KeyObject]:
    """List a project's keys that are not revoked, newest first."""
    rows = service.list_keys(session, project_id, page)
    return build_page([KeyObject.from_row(row, service.redacted(row)) for row in rows], limit=page.limit)


@router.get(_KEYS + "/{key_id}")
def get_key(project_id: str, key_id: str, _key: Admin, session: DbSession) -> KeyObject:
    """Return one key, without its value."""
    row = service.get_key(session, project_id, key_id)
    return KeyObject.from_row(row, service.redacted(row))


@router.delete(_KEYS + "/{key_id}")
def revoke_key(project_id: str, key_id: str, _key: Admin, session: DbSession) -> Deleted:
    """Revoke a key; it may work for up to ``NLFT_KEY_CACHE_SECONDS`` more."""
    service.revoke_key(session, project_id, key_id)
    return Deleted(id=key_id, object="organization.project.api_key.deleted")
