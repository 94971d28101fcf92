"""A worker's side of the queue of previews: claim the oldest, stay its owner, hand in what came out.

As with jobs, a worker owns an attempt while ``(id, lease_token)`` matches an unfinished row. A lease that has run out
lets another worker claim the preview; nobody has to reap it.
"""

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, literal, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.db.base import Json
from app.db.models import FineTuningJob, JobStatus, SaliencyPreview

MOST_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class ClaimedPreview:
    """A preview that a worker holds. ``request`` is what the API made of the body."""

    preview_id: str
    token: uuid.UUID
    project_id: str
    adapter_id: str | None
    request: bytes


def claim(session: Session, *, lease_seconds: float) -> ClaimedPreview | None:
    """Take the oldest preview that somebody waits for, unless a job that waits longer, or is urgent, comes first.

    The caller commits.
    """
    values = {
        "attempt": SaliencyPreview.attempt + 1,
        "lease_token": uuid.uuid4(),
        "lease_expires_at": seconds_from_now(lease_seconds),
        "started_at": func.coalesce(SaliencyPreview.started_at, func.now()),
    }
    statement = update(SaliencyPreview).where(SaliencyPreview.id == _next_eligible()).values(values)
    options = {"synchronize_session": False, "populate_existing": True}
    preview = session.scalars(statement.returning(SaliencyPreview).execution_options(**options)).one_or_none()
    if preview is None or preview.lease_token is None:
        return None
    return ClaimedPreview(
        preview.id, preview.lease_token, preview.project_id, preview.adapter_id, bytes(preview.request)
    )


def renew(session: Session, claimed: ClaimedPreview, *, lease_seconds: float) -> bool:
    """Extend the lease; return False when the preview is no longer ours, or nobody wants it. The caller commits."""
    statement = (
        update(SaliencyPreview)
        .where(*_owned(claimed))
        .values(lease_expires_at=seconds_from_now(lease_seconds))
        .returning(SaliencyPreview.wanted_until > func.now())
        .execution_options(synchronize_session=False)
    )
    return bool(session.scalar(statement))


def finish(
    session: Session, claimed: ClaimedPreview, *, answer: bytes | None = None, error: Json | None = None
) -> bool:
    """Hand in the answer, or why there is none; return whether the preview was still ours. The caller commits."""
    values = {"answer": answer, "error": error, "finished_at": func.now()}
    return _close(session, claimed, values)


def release(session: Session, claimed: ClaimedPreview, *, is_counted: bool) -> bool:
    """Give the preview back for another attempt; an uncounted one leaves its allowance alone. The caller commits."""
    return _close(session, claimed, {} if is_counted else {"attempt": SaliencyPreview.attempt - 1})


def _close(session: Session, claimed: ClaimedPreview, values: dict[str, Any]) -> bool:
    ended = {"lease_token": None, "lease_expires_at": None}
    statement = update(SaliencyPreview).where(*_owned(claimed)).values({**values, **ended})
    closed = session.execute(
        statement.returning(SaliencyPreview.id).execution_options(synchronize_session=False)
    ).one_or_none()
    return closed is not None


def _owned(claimed: ClaimedPreview) -> tuple[ColumnElement[bool], ...]:
    return (
        SaliencyPreview.id == claimed.preview_id,
        SaliencyPreview.lease_token == claimed.token,
        SaliencyPreview.finished_at.is_(None),
    )


def _next_eligible() -> ColumnElement[str]:
    waiting = aliased(SaliencyPreview)
    job_comes_first = exists().where(
        FineTuningJob.status == JobStatus.QUEUED,
        FineTuningJob.not_before <= func.now(),
        FineTuningJob.cancel_requested_at.is_(None),
        or_(
            FineTuningJob.priority > 0,
            and_(FineTuningJob.priority == 0, FineTuningJob.created_at < waiting.created_at),
        ),
    )
    return (
        select(waiting.id)
        .where(
            waiting.finished_at.is_(None),
            waiting.wanted_until > func.now(),
            waiting.attempt < MOST_ATTEMPTS,
            or_(waiting.lease_expires_at.is_(None), waiting.lease_expires_at < func.now()),
            ~job_comes_first,
        )
        .order_by(waiting.created_at, waiting.id)
        .limit(1)
        .with_for_update(of=waiting, skip_locked=True)
        .scalar_subquery()
    )


def seconds_from_now(seconds: float) -> ColumnElement[Any]:
    """Return the database's clock plus ``seconds``."""
    return func.now() + literal(timedelta(seconds=seconds))
