"""Saliency of a job's pinned examples: registered under the lease, listed record by record."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequestError
from app.core.pagination import PageQuery, build_document
from app.core.schemas import Schema
from app.db.models.saliency_snapshot import SaliencySnapshot
from app.jobs import leases
from app.jobs.leases import Lease
from app.jobs.publication import StoredFile
from app.saliency.schemas import RecordRead
from app.storage import BlobStore

_ID = re.compile(r"saliency-(\d{1,9})-(\d{1,6})")


class SnapshotQuery(PageQuery):
    """Query of a job's saliency."""

    step: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="Records of this step only.")] = None


class SnapshotRecordRead(RecordRead):
    """A saliency record of a job; ``id`` names step and example."""

    id: str
    object: str = "fine_tuning.job.saliency"


class SnapshotPage(Schema):
    """Documents a page of records; they are sent as the trainer wrote them."""

    object: str = "list"
    data: list[SnapshotRecordRead]
    first_id: str | None
    last_id: str | None
    has_more: bool


def register_snapshot(session: Session, lease: Lease, *, step: int, examples: int, file: StoredFile) -> None:
    """Record uploaded saliency; a later attempt's replaces an earlier one's of the same step. The caller commits.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    job = leases.lock(session, lease)
    values = {"attempt": lease.attempt, "examples": examples, "bytes": file.bytes, "sha256": file.sha256}
    statement = insert(SaliencySnapshot).values(job_id=job.id, step=step, **values)
    key = [SaliencySnapshot.job_id, SaliencySnapshot.step]
    session.execute(statement.on_conflict_do_update(index_elements=key, set_=values))


def list_records(session: Session, store: BlobStore, job_id: str, query: SnapshotQuery) -> dict[str, Any]:
    """Return a page of a job's records, by step and then in the order in which the examples were pinned.

    Raises:
        InvalidRequestError: ``after`` is no id of a record.
    """
    after = (-1, -1) if query.after is None else _place(query.after)
    statement = select(SaliencySnapshot).where(SaliencySnapshot.job_id == job_id, SaliencySnapshot.step >= after[0])
    if query.step is not None:
        statement = statement.where(SaliencySnapshot.step == query.step)
    found: list[dict[str, Any]] = []
    for snapshot in session.scalars(statement.order_by(SaliencySnapshot.step)):
        if (snapshot.step, snapshot.examples) <= after:
            continue
        for index, record in enumerate(_read(store, snapshot.sha256), start=1):
            if (snapshot.step, index) > after:
                identity = f"saliency-{snapshot.step}-{index}"
                found.append({"id": identity, "object": "fine_tuning.job.saliency", **record})
        if len(found) > query.limit:
            break
    return build_document(found, limit=query.limit)


def _place(record_id: str) -> tuple[int, int]:
    match = _ID.fullmatch(record_id)
    if match is None:
        message = f"'{record_id}' is not in this list; 'after' takes the id of an item that the list has returned."
        raise InvalidRequestError(message, param="after", code="invalid_value")
    return int(match[1]), int(match[2])


def _read(store: BlobStore, sha256: str) -> Iterator[dict[str, Any]]:
    content = b"".join(store.read(sha256))
    for line in content.splitlines():
        record: dict[str, Any] = msgspec.json.decode(line)
        yield record
