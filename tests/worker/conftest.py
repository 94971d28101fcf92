"""A worker in this process, without Celery, whose trainer is scripted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.settings import Settings
from app.db.session import SessionFactory
from tests.worker.scripted_jobs import SCRIPTED_COMMAND, add_project, quick_settings
from worker.context import WorkerContext


@pytest.fixture
def quick(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    return quick_settings(database_url, broker_url, tmp_path)


@pytest.fixture
def context(quick: Settings, session_factory: SessionFactory) -> Iterator[WorkerContext]:
    built = WorkerContext.from_settings(quick, child_command=SCRIPTED_COMMAND)
    yield built
    built.draining.set()
    built.close()


@pytest.fixture
def project(context: WorkerContext) -> str:
    return add_project(context.factory, context.store)
