"""Appending to a job's history, in the transaction that changes the job."""

from collections.abc import Iterable, Mapping

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.core import ids
from app.db.base import Json
from app.db.models.fine_tuning_job import FineTuningJob
from app.db.models.job_event import JobEvent

Fields = Mapping[str, str | Json | None]


def add_first_events(session: Session, settings: Mapping[str, Json]) -> None:
    """Insert the events that histories begin with, given each new job's settings by its id.

    Nobody else can see the jobs yet, so nothing is locked.
    """
    common = {"attempt": 0, "level": "info", "type": "message"}
    events = [
        {
            "id": ids.new_id(ids.EVENT),
            "job_id": job_id,
            "message": f"Created fine-tuning job: {job_id}",
            "data": data,
            **common,
        }
        for job_id, data in settings.items()
    ]
    if events:
        session.execute(insert(JobEvent), events)


def append_event(
    session: Session,
    job_id: str,
    *,
    attempt: int,
    level: str,
    message: str,
    type: str = "message",
    data: Json | None = None,
) -> None:
    """Insert one event; the caller commits. See ``append_events``.

    Args:
        session: Session of the transaction that changes the job.
        job_id: An existing job.
        attempt: Attempt that the event belongs to; 0 before the first claim.
        level: ``info``, ``warn`` or ``error``.
        message: A sentence for the job's owner.
        type: ``message`` or ``metrics``.
        data: Machine-readable detail.
    """
    event: Fields = {"level": level, "type": type, "message": message, "data": data}
    append_events(session, job_id, [event], attempt=attempt)


def append_events(session: Session, job_id: str, events: Iterable[Fields], *, attempt: int) -> None:
    """Insert events in their order; the caller commits.

    The job's row is locked first: sequence numbers of one job are handed out in commit order, so a reader that has
    seen number n never misses a smaller one.

    Args:
        session: Session of the transaction that changes the job.
        job_id: An existing job.
        events: ``level``, ``type``, ``message`` and ``data`` of each.
        attempt: Attempt that they belong to; 0 before the first claim.
    """
    rows = [{"id": ids.new_id(ids.EVENT), "job_id": job_id, "attempt": attempt, **event} for event in events]
    if rows:
        session.execute(select(FineTuningJob.id).where(FineTuningJob.id == job_id).with_for_update(key_share=True))
        session.execute(insert(JobEvent), rows)
