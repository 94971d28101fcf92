"""Runs and checks Alembic migrations from code, for ``nlft up``, tests and ``/readyz``; operators use ``alembic``."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

_ROOT = Path(__file__).parents[2]


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the database to ``revision``; concurrent callers wait for each other."""
    with engine.begin() as connection:
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the database back to ``revision``; ``base`` drops every table."""
    with engine.begin() as connection:
        command.downgrade(_config(connection), revision)


@cache
def head_revision() -> str:
    """Return the newest revision that this code knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def current_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, or None when it was never migrated."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _config(connection: Connection | None = None) -> Config:
    config = Config(str(_ROOT / "alembic.ini"))
    config.attributes["connection"] = connection
    return config
