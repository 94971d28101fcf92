"""Runs migrations on the connection that ``app.db.migration`` hands over, or on DATABASE_URL. Online only.

A transaction-level advisory lock makes a second migrator wait, then find nothing left to do.
"""

from alembic import context
from sqlalchemy import Connection, text

from app.core.settings import get_settings
from app.db import models
from app.db.session import build_engine

_LOCK = 0x4E4C4600


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=models.Blob.metadata,
        compare_server_default=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    with build_engine(get_settings()).connect() as opened:
        _migrate(opened)
        opened.commit()
