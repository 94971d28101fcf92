"""Private servers shared by the fault tests, an empty database and fresh processes for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from app.core.settings import Settings
from app.db.base import Base
from app.db.migration import upgrade
from app.db.session import build_engine, build_session_factory
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.valkey import EmbeddedValkey
from app.queue import JobQueue
from app.storage import BlobStore
from tests.faults.world import World
from tests.fixtures.servers import TEMPLATES
from tests.worker.scripted_jobs import quick_settings


@pytest.fixture(scope="session")
def fault_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("fault-postgres"), template_cache=TEMPLATES) as server:
        engine = build_engine(Settings(DATABASE_URL=SecretStr(server.url)))
        upgrade(engine)
        engine.dispose()
        yield server


@pytest.fixture(scope="session")
def fault_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("fault-valkey")) as server:
        yield server


@pytest.fixture
def world(fault_postgres: EmbeddedPostgres, fault_valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[World]:
    fault_postgres.start()
    fault_valkey.start()
    settings = quick_settings(fault_postgres.url, fault_valkey.url, tmp_path)
    engine = build_engine(settings)
    _empty(engine)
    queue = JobQueue.from_settings(settings)
    store = BlobStore.from_url(settings.storage_url)
    built = World(tmp_path, fault_postgres, fault_valkey, settings, build_session_factory(engine), store, queue)
    try:
        yield built
    finally:
        built.end()
        queue.close()
        engine.dispose()


def _empty(engine: Engine) -> None:
    names = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {names}"))
