"""One create, one job: clients repeat a create whose answer they did not see, most of them without saying so.

With an ``Idempotency-Key`` the key decides, for as long as the job's row exists. Without one, a repetition is known by
the retry counter that the OpenAI SDKs send: it gets the newest job made from an equal body in the last ten minutes.
The counter starts at 0, but a retry may overtake its first request on the way; the first then adopts the retry's job.
Everything here runs under ``repository.lock_creation``, so it never sees half of a concurrent create.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.core.errors import ConflictError, InvalidRequestError
from app.db.models.fine_tuning_job import FineTuningJob
from app.db.models.idempotency_key import IdempotencyKey
from app.jobs import repository
from app.jobs.schemas import JobCreate

RETRY_WINDOW_SECONDS = 600.0
OVERTAKEN_WINDOW_SECONDS = 60.0
_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class CreateAttempt:
    """One arrival of a create call: who asks, for what, and what tells it from other arrivals."""

    project_id: str
    digest: str
    idempotency_key: str | None = None
    retry_count: int = 0


def identify(
    project_id: str, body: JobCreate, *, idempotency_key: str | None, retry_count: str | None
) -> CreateAttempt:
    """Return the identity of a create call; a counter that is no number, or stands beside a key, counts as 0.

    Raises:
        InvalidRequestError: The key is empty or longer than 255 characters.
    """
    if idempotency_key is not None and not 0 < len(idempotency_key) <= _LONGEST_KEY:
        message = f"The Idempotency-Key must have 1 to {_LONGEST_KEY} characters."
        raise InvalidRequestError(message, param="Idempotency-Key", code="invalid_value")
    is_retry_counted = idempotency_key is None and re.fullmatch(r"[0-9]{1,4}", retry_count or "")
    count = int(retry_count or 0) if is_retry_counted else 0
    return CreateAttempt(project_id, _digest(body), idempotency_key, count)


def find_first_job(session: Session, attempt: CreateAttempt) -> FineTuningJob | None:
    """Return the job that an earlier arrival of the same call has made.

    Raises:
        ConflictError: The idempotency key was used with another body.
    """
    if attempt.idempotency_key is not None:
        return _find_by_key(session, attempt, attempt.idempotency_key)
    if attempt.retry_count > 0:
        return repository.find_latest_twin(session, attempt.project_id, attempt.digest, seconds=RETRY_WINDOW_SECONDS)
    job = repository.find_overtaking_retry(
        session, attempt.project_id, attempt.digest, seconds=OVERTAKEN_WINDOW_SECONDS
    )
    if job is not None:
        job.request_retry_count = 0  # adopted: the next equal create makes a job of its own
    return job


def find_repeated(session: Session, attempts: Sequence[CreateAttempt]) -> set[int]:
    """Return the places of attempts that may be repetitions, of stored calls or of attempts before them.

    Errs on the side of caution: what is not named here is none; what is named, ``find_first_job`` has to decide.
    """
    keys = {(one.project_id, one.idempotency_key) for one in attempts if one.idempotency_key is not None}
    digests = {one.digest for one in attempts if one.idempotency_key is None}
    known = repository.list_known_keys(session, keys) if keys else set()
    twins = repository.list_twins(session, digests, seconds=RETRY_WINDOW_SECONDS) if digests else set()
    made_by_retries = {(project_id, digest) for project_id, digest, is_from_retry in twins if is_from_retry}
    made = {(project_id, digest) for project_id, digest, _ in twins}
    repeated, seen = set(), set[tuple[str, str]]()
    for place, one in enumerate(attempts):
        twin, key = (one.project_id, one.digest), (one.project_id, one.idempotency_key or "")
        if one.idempotency_key is not None:
            is_stored = key in known
        else:
            is_stored = twin in (made if one.retry_count else made_by_retries)
        if is_stored or twin in seen or key in seen:
            repeated.add(place)
        seen |= {twin, key} if one.idempotency_key else {twin}
    return repeated


def remember(session: Session, attempt: CreateAttempt, job: FineTuningJob) -> None:
    """Note the idempotency key of a call that has made ``job``, if it had one."""
    if attempt.idempotency_key is not None:
        session.add(
            IdempotencyKey(
                project_id=attempt.project_id,
                key=attempt.idempotency_key,
                request_digest=attempt.digest,
                job_id=job.id,
            )
        )


def _find_by_key(session: Session, attempt: CreateAttempt, key: str) -> FineTuningJob | None:
    known = repository.find_idempotency_key(session, attempt.project_id, key)
    if known is None:
        return None
    if known.request_digest != attempt.digest:
        raise ConflictError(
            "This Idempotency-Key was used with another request body; use a new key for a new job.",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    return repository.find_job(session, attempt.project_id, known.job_id)


def _digest(body: JobCreate) -> str:
    written = body.model_dump(mode="json", exclude_unset=True)
    canonical = json.dumps(written, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
