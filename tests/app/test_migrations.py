"""The schema: migrations run both ways, agree with the models, and guard finished jobs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import IntegrityError

from app.core.settings import Settings
from app.db.base import Base
from app.db.migration import current_revision, downgrade, head_revision, upgrade
from app.db.session import build_engine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def empty_engine(empty_database_url: str) -> Iterator[Engine]:
    engine = build_engine(Settings(DATABASE_URL=SecretStr(empty_database_url)))
    yield engine
    engine.dispose()


def test_upgrade_then_downgrade_leaves_nothing_but_the_version_table(empty_engine: Engine) -> None:
    upgrade(empty_engine)
    assert set(inspect(empty_engine).get_table_names()) == {"alembic_version", *Base.metadata.tables}
    downgrade(empty_engine, "base")
    assert inspect(empty_engine).get_table_names() == ["alembic_version"]
    with empty_engine.connect() as connection:
        functions = connection.scalar(text("SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"))
    assert functions == 0
    upgrade(empty_engine)


def test_each_revision_goes_up_and_down_by_itself(empty_engine: Engine) -> None:
    for revision in ("0001", "0002", "0003", "0004", "0005", "0006"):
        upgrade(empty_engine, revision)
    for revision in ("0005", "0004", "0003", "0002", "0001", "base"):
        downgrade(empty_engine, revision)


def test_the_models_and_the_migrated_schema_do_not_differ(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_revision_is_known_before_and_after(empty_engine: Engine) -> None:
    with empty_engine.connect() as connection:
        assert current_revision(connection) is None
    upgrade(empty_engine)
    with empty_engine.connect() as connection:
        assert current_revision(connection) == head_revision()


def test_migrators_that_start_together_wait_for_each_other(empty_engine: Engine, empty_database_url: str) -> None:
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    environment = {**os.environ, "DATABASE_URL": empty_database_url}
    racers = [subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)]
    for racer in racers:
        _, written = racer.communicate(timeout=60)
        assert racer.returncode == 0, written.decode()
    with empty_engine.connect() as connection:
        assert current_revision(connection) == head_revision()


def _insert_job(engine: Engine, status: str) -> None:
    ended = "now()" if status != "queued" else "NULL"
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name) VALUES ('p', 'p')"))
        connection.execute(
            text(
                "INSERT INTO base_models (id, path, digest, architecture, parameters, context_length, details) "
                "VALUES ('b', '/b', 'd', 'Llama', 1, 1, '{}')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO fine_tuning_jobs (id, project_id, model, base_model_id, training_file_id, seed, method, "
                "spec, request_digest, status, finished_at, fine_tuned_model) "
                f"VALUES ('j', 'p', 'b', 'b', 'f', 0, '{{}}', '{{}}', 'r', '{status}', {ended}, 'ft:b')"
            )
        )


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
@pytest.mark.parametrize(
    "change",
    [
        "status = 'queued', finished_at = NULL",
        "fine_tuned_model = 'ft:other'",
        "result_files = '{file-x}'",
        "trained_tokens = 1",
        "built_file_id = 'file-x'",
        "error_message = 'another'",
        "finished_at = now() + interval '1 hour'",
        "attempt = 7",
    ],
)
def test_a_finished_job_does_not_change(empty_engine: Engine, status: str, change: str) -> None:
    upgrade(empty_engine)
    _insert_job(empty_engine, status)
    with pytest.raises(IntegrityError, match="a finished job does not change"), empty_engine.begin() as connection:
        connection.execute(text(f"UPDATE fine_tuning_jobs SET {change}"))


def test_what_is_no_outcome_may_change_and_an_unfinished_job_may_finish(empty_engine: Engine) -> None:
    upgrade(empty_engine)
    _insert_job(empty_engine, "queued")
    with empty_engine.begin() as connection:
        connection.execute(text("UPDATE fine_tuning_jobs SET status = 'cancelled', finished_at = now()"))
        connection.execute(text('UPDATE fine_tuning_jobs SET metadata = \'{"a": "b"}\''))
