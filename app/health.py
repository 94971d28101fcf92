"""Health routes for load balancers: the only ones without a key. Neither ever waits long."""

from collections.abc import Callable

import anyio
from anyio import CapacityLimiter, to_thread
from celery import Celery
from fastapi import APIRouter, Request, Response
from kombu.exceptions import OperationalError
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from app.core.logging import get_logger
from app.core.schemas import Schema
from app.db.migration import current_revision, head_revision
from app.dependencies import get_resources
from app.queue import broker_options

router = APIRouter(tags=["health"])
_LOG = get_logger(__name__)
_PATIENCE_SECONDS = 1.0
# Threads of its own, so that checks that hang on a dead server cannot use up those that serve requests.
_LIMITER = CapacityLimiter(4)


class Health(Schema):
    """``status`` is ``ok`` or ``unavailable``; each check is ``ok`` or says what is wrong."""

    status: str
    checks: dict[str, str]


@router.get("/livez")
async def livez() -> Health:
    """Say that the process runs and answers."""
    return Health(status="ok", checks={})


@router.get("/readyz")
async def readyz(request: Request, response: Response) -> Health:
    """Say whether requests can be served: the database answers within a second and its schema is this code's.

    The broker is reported only: without it jobs are accepted and start a little later.
    """
    resources = get_resources(request)
    broker_url = resources.settings.broker_url.get_secret_value()
    checks = {"database": "no answer within 1 s", "broker": "no answer within 1 s"}

    async def run_check(name: str, check: Callable[[], str]) -> None:
        with anyio.move_on_after(_PATIENCE_SECONDS):
            checks[name] = await to_thread.run_sync(check, abandon_on_cancel=True, limiter=_LIMITER)

    async with anyio.create_task_group() as group:
        group.start_soon(run_check, "database", lambda: _check_database(resources.engine))
        group.start_soon(run_check, "broker", lambda: _check_broker(broker_url))
    is_ready = checks["database"] == "ok"
    response.status_code = 200 if is_ready else 503
    return Health(status="ok" if is_ready else "unavailable", checks=checks)


def _check_database(engine: Engine) -> str:
    try:
        with engine.connect() as connection:
            connection.detach()  # an abandoned check may outlive the pool; its connection must close, not return
            connection.execute(text("SET LOCAL statement_timeout = '1s'"))
            revision = current_revision(connection)
    except SQLAlchemyError as error:
        _LOG.warning("readiness: database", error=type(error).__name__)
        return "unavailable"
    if revision == head_revision():
        return "ok"
    return f"schema is at revision {revision}, this code needs {head_revision()}: run `alembic upgrade head`"


def _check_broker(url: str) -> str:
    celery = Celery(broker=url, set_as_current=False)
    celery.conf.broker_transport_options = broker_options(
        read_seconds=_PATIENCE_SECONDS, connect_seconds=_PATIENCE_SECONDS
    )
    with celery.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        except OperationalError:
            return "unavailable"
    return "ok"
