"""What the preview route does: put a preview into the queue, wait for its answer, take it out again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect

from app.core import ids
from app.core.errors import InvalidRequestError, RateLimitError, ServiceError, UnavailableError
from app.core.logging import get_logger
from app.core.settings import Settings
from app.db.base import Json
from app.db.session import SessionFactory, transaction
from app.queue import JobQueue
from app.saliency import repository
from app.saliency.repository import PreviewState
from app.saliency.requests import build_preview, refuse_examples
from app.saliency.schemas import PreviewCreate

# How long a preview outlives an API process that died while it waited for it.
WANTED_SECONDS = 10.0
_KEEP_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.03
_LONGEST_PAUSE_SECONDS = 0.25
_FIRST_REPEAT_SECONDS = 3.0
_USER_ERRORS = frozenset({"invalid_examples", "too_many_tokens", "invalid_hyperparameters", "out_of_memory"})
_LOG = get_logger(__name__)


class PreviewUnavailableError(UnavailableError):
    """No worker answered; a client that repeats the call at once would only wait again."""

    headers: ClassVar[dict[str, str]] = {"retry-after": "30", "x-should-retry": "false"}


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waiting for a preview needs.

    Attributes:
        sessions: Short sessions, used in threads.
        queue: Where hints go.
        settings: Time limits.
        is_disconnected: Whether the client has left.
    """

    sessions: SessionFactory
    queue: JobQueue
    settings: Settings
    is_disconnected: Callable[[], Awaitable[bool]]


def create_preview(sessions: SessionFactory, project_id: str, body: PreviewCreate, settings: Settings) -> str:
    """Put a preview into the queue and return its id.

    Raises:
        InvalidRequestError: Something in the body is unfit; ``param`` names it.
        NotFoundError: The project knows no such model.
        RateLimitError: ``settings.max_open_previews`` of the project's previews wait or run.
    """
    with transaction(sessions) as session:
        preview = build_preview(session, project_id, body, settings)
        repository.lock_project(session, project_id)
        if repository.count_open(session, project_id) >= settings.max_open_previews:
            raise RateLimitError(
                f"{settings.max_open_previews} previews of this project wait or run already; wait for one to end.",
                code="too_many_previews",
            )
        preview.id = ids.new_id(ids.PREVIEW)
        repository.add(session, preview, wanted_seconds=WANTED_SECONDS)
        return preview.id


async def await_answer(waiting: Waiting, preview_id: str) -> bytes:
    """Return the answer to a preview as JSON, and forget the preview whatever happens.

    Raises:
        ClientDisconnect: Nobody is left to answer; a worker at it stops.
        InvalidRequestError: The rows do not suit the model, or are too many.
        PreviewUnavailableError: No worker took it up, or none finished it, in time.
    """
    try:
        state = await _follow(waiting, preview_id)
    finally:
        with suppress(SQLAlchemyError):  # what is not removed is swept
            await run_in_threadpool(_remove, waiting.sessions, preview_id)
    if state.answer is None:
        raise _describe_failure(state.error)
    return state.answer


async def _follow(waiting: Waiting, preview_id: str) -> PreviewState:
    started = kept = time.monotonic()
    pause, repeat_at = _FIRST_PAUSE_SECONDS, started + _FIRST_REPEAT_SECONDS
    await run_in_threadpool(waiting.queue.enqueue_job, preview_id)
    while True:
        state = await run_in_threadpool(_look, waiting.sessions, preview_id)
        if state.has_finished:
            return state
        now = time.monotonic()
        if state.is_lost or now - started > _patience(waiting.settings, state):
            raise await run_in_threadpool(_explain_delay, waiting, state)
        if await waiting.is_disconnected():
            raise ClientDisconnect
        if now - kept > _KEEP_SECONDS:
            kept = now
            await run_in_threadpool(_keep, waiting.sessions, preview_id)
        if not state.has_started and now > repeat_at:
            repeat_at = now + 2 * (now - started)
            await run_in_threadpool(waiting.queue.enqueue_job, preview_id)
        await asyncio.sleep(pause)
        pause = min(1.2 * pause, _LONGEST_PAUSE_SECONDS)


def _patience(settings: Settings, state: PreviewState) -> float:
    waits = settings.preview_wait_seconds
    # A worker gives up by itself; what comes on top is for one that dies and for its successor.
    return waits + 2 * settings.preview_seconds + WANTED_SECONDS if state.has_started else waits


def _look(sessions: SessionFactory, preview_id: str) -> PreviewState:
    with sessions() as session:
        state = repository.look(session, preview_id)
    if state is None:
        raise PreviewUnavailableError("The preview was lost while it waited; send it again.", code="preview_lost")
    return state


def _keep(sessions: SessionFactory, preview_id: str) -> None:
    with transaction(sessions) as session:
        repository.keep_wanted(session, preview_id, wanted_seconds=WANTED_SECONDS)


def _remove(sessions: SessionFactory, preview_id: str) -> None:
    with transaction(sessions) as session:
        repository.remove(session, preview_id)


def _explain_delay(waiting: Waiting, state: PreviewState) -> ServiceError:
    if state.has_started:
        message = "The worker that computed the preview did not finish it; send it again, with fewer examples."
        return PreviewUnavailableError(message, code="preview_lost")
    with waiting.sessions() as session:
        busy = repository.count_running_jobs(session)
    seconds = waiting.settings.preview_wait_seconds
    if busy:
        message = f"No worker was free for the preview within {seconds:g} s: {busy} job(s) are being trained."
        return PreviewUnavailableError(message, code="workers_busy")
    message = f"No worker took the preview up within {seconds:g} s; the operator should check that one runs."
    return PreviewUnavailableError(message, code="no_worker")


def _describe_failure(error: Json | None) -> ServiceError:
    found = error or {"code": "internal_error", "message": "The preview failed.", "param": None, "data": None}
    code, message, param, data = (found.get(name) for name in ("code", "message", "param", "data"))
    if code == "invalid_examples" and data:
        return refuse_examples(data["problems"], data["total_problems"])
    if code == "preview_timeout":
        return PreviewUnavailableError(str(message), code=code)
    if code in _USER_ERRORS:
        return InvalidRequestError(_sentence(str(message)), param=param, code=code)
    _LOG.warning("preview failed", code=code)
    return ServiceError(_sentence(str(message)), param=param, code=code)


def _sentence(message: str) -> str:
    return f"{message[:1].upper()}{message[1:].rstrip('.')}."
