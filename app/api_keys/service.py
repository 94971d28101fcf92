"""Creates projects, and creates and revokes their keys. Every function commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.api_keys import repository
from app.auth.key_format import PREFIX, generate_key, hash_secret
from app.auth.scopes import PROJECT_SCOPES, Scope
from app.core import ids
from app.core.errors import InvalidRequestError, NotFoundError
from app.core.pagination import PageQuery
from app.db.models import ApiKey, Project

_BOOTSTRAP_LOCK = 0x4E4C4603


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key: its row, and the text that is shown this once and stored nowhere."""

    row: ApiKey
    text: str


def create_project(session: Session, name: str) -> Project:
    """Return a new project."""
    project = Project(id=ids.new_id(ids.PROJECT), name=name)
    session.add(project)
    session.commit()
    return project


def get_project(session: Session, project_id: str) -> Project:
    """Return the project.

    Raises:
        NotFoundError: There is none with this id.
    """
    project = repository.find_project(session, project_id)
    if project is None:
        raise NotFoundError(f"No such project: '{project_id}'.", param="project_id")
    return project


def list_projects(session: Session, query: PageQuery) -> list[Project]:
    """Return one row beyond the page of all projects, newest first."""
    return repository.list_projects(session, query)


def create_key(
    session: Session,
    pepper: str,
    project_id: str,
    *,
    name: str,
    scopes: Sequence[str] = PROJECT_SCOPES,
    expires_at: datetime | None = None,
) -> CreatedKey:
    """Return a new key of the project, by default one that may do everything inside it and never expires.

    Raises:
        NotFoundError: There is no such project.
        InvalidRequestError: A scope is unknown, or none is given.
    """
    project = get_project(session, project_id)
    created = _add_key(session, pepper, project, name=name, scopes=_checked(scopes), expires_at=expires_at)
    session.commit()
    return created


def get_key(session: Session, project_id: str, key_id: str) -> ApiKey:
    """Return the project's key.

    Raises:
        NotFoundError: The project has no such key, or it is revoked.
    """
    key = repository.find_key(session, project_id, key_id)
    if key is None:
        raise NotFoundError(f"No such API key: '{key_id}'.", param="key_id")
    return key


def revoke_key(session: Session, project_id: str, key_id: str) -> ApiKey:
    """Revoke the key; servers that verified it a moment ago may accept it for up to ``NLFT_KEY_CACHE_SECONDS`` more.

    Raises:
        NotFoundError: The project has no such key, or it is revoked already.
    """
    key = get_key(session, project_id, key_id)
    key.revoked_at = func.now()
    session.commit()
    return key


def list_keys(session: Session, project_id: str, query: PageQuery) -> list[ApiKey]:
    """Return one row beyond the page of the project's keys.

    Raises:
        NotFoundError: There is no such project.
    """
    get_project(session, project_id)
    return repository.list_keys(session, project_id, query)


def bootstrap(session: Session, pepper: str, *, project_name: str = "default") -> CreatedKey | None:
    """Create the first project with a key, or return None when there is a project already. Safe to race."""
    session.execute(select(func.pg_advisory_xact_lock(_BOOTSTRAP_LOCK)))
    if session.scalars(select(Project.id).limit(1)).first() is not None:
        session.rollback()
        return None
    project = Project(id=ids.new_id(ids.PROJECT), name=project_name)
    session.add(project)
    session.flush()
    created = _add_key(session, pepper, project, name="first key", scopes=PROJECT_SCOPES, expires_at=None)
    session.commit()
    return created


def redacted(key: ApiKey) -> str:
    """Return what may be shown of a key again."""
    return f"{PREFIX}{key.public_id}_…"


def _add_key(
    session: Session,
    pepper: str,
    project: Project,
    *,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None,
) -> CreatedKey:
    key = generate_key()
    row = ApiKey(
        id=ids.new_id(ids.API_KEY),
        project_id=project.id,
        name=name,
        public_id=key.public_id,
        secret_hash=hash_secret(key.secret, pepper),
        scopes=list(scopes),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return CreatedKey(row, key.text)


def _checked(scopes: Sequence[str]) -> list[str]:
    known = [str(scope) for scope in Scope]
    unknown = [scope for scope in scopes if scope not in known]
    if unknown or not scopes:
        fault = f"Unknown scope '{unknown[0]}'." if unknown else "A key needs at least one scope."
        raise InvalidRequestError(f"{fault} Known scopes: {', '.join(known)}.", param="scopes", code="invalid_value")
    return [str(scope) for scope in scopes]
