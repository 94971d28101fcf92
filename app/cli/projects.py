"""``nlft projects`` and ``nlft keys``: tenants and their API keys."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from app.api_keys import service
from app.cli.operator import operating
from app.cli.options import AsJson, StateDir
from app.cli.output import CommandError, notes, print_record, print_rows
from app.core.pagination import PageQuery
from app.db.models import ApiKey

projects = typer.Typer(
    name="projects", help="Projects: each sees its own files, jobs and adapters only.", no_args_is_help=True
)
keys = typer.Typer(name="keys", help="API keys of a project.", no_args_is_help=True)

Project = Annotated[str, typer.Option("--project", help="Project id.")]
_KEY_COLUMNS = ("id", "name", "key", "scopes", "created_at", "last_used_at", "expires_at")


@projects.command("create")
def create_project(name: str, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Create a project."""
    with operating(state_dir) as operator:
        project = service.create_project(operator.session, name)
        print_record({"id": project.id, "name": project.name}, as_json=as_json)


@projects.command("list")
def list_projects(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the newest hundred projects."""
    with operating(state_dir) as operator:
        found = service.list_projects(operator.session, PageQuery(limit=100))
        rows = [{"id": row.id, "name": row.name, "created_at": int(row.created_at.timestamp())} for row in found[:100]]
        print_rows(rows, ("id", "name", "created_at"), as_json=as_json)


@keys.command("create")
def create_key(
    project: Project,
    *,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    scope: Annotated[
        list[str] | None, typer.Option(help="May be given several times; default: all of a project.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; default: never.")] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a key. Its text is shown this once and stored nowhere."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    with operating(state_dir) as operator:
        pepper = operator.settings.api_key_pepper.get_secret_value()
        if not pepper:
            raise CommandError("NLFT_API_KEY_PEPPER is not set; it must be the one that the API runs with.")
        chosen = {"scopes": scope} if scope else {}
        created = service.create_key(operator.session, pepper, project, name=name, expires_at=expires_at, **chosen)
        print_record({**_key(created.row), "key": created.text}, as_json=as_json)
    if not as_json:
        notes.print("Keep the key now: it is not shown again.", style="yellow")


@keys.command("list")
def list_keys(project: Project, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List a project's newest hundred keys that are not revoked."""
    with operating(state_dir) as operator:
        found = service.list_keys(operator.session, project, PageQuery(limit=100))
        print_rows([_key(row) for row in found[:100]], _KEY_COLUMNS, as_json=as_json)


@keys.command("revoke")
def revoke_key(key_id: str, project: Project, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Revoke a key; running servers may accept it for up to NLFT_KEY_CACHE_SECONDS more."""
    with operating(state_dir) as operator:
        row = service.revoke_key(operator.session, project, key_id)
        print_record({**_key(row), "revoked": True}, as_json=as_json)


def _key(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "key": service.redacted(row),
        "scopes": row.scopes,
        "created_at": _seconds(row.created_at),
        "last_used_at": _seconds(row.last_used_at),
        "expires_at": _seconds(row.expires_at),
    }


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
