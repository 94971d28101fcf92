"""Results of stages, shared by all jobs of a project: recorded part by part, found by key, dropped by age and size."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.models.stage_part import StagePart
from app.jobs import leases
from app.jobs.leases import Lease
from app.jobs.publication import StoredFile
from worker.training.events import Stage

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class PartId:
    """Which piece of which result: the ``key`` says what it was made from, parts count from 0."""

    stage: Stage
    key: str
    part: int


def record_part(session: Session, lease: Lease, part: PartId, file: StoredFile) -> str:
    """Keep a part for the project of the leased job, and return that; the same part made twice is kept once.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    job = leases.lock(session, lease)
    row = insert(StagePart).values(
        project_id=job.project_id,
        stage=part.stage,
        key=part.key,
        part=part.part,
        sha256=file.sha256,
        bytes=file.bytes,
    )
    places = [StagePart.project_id, StagePart.stage, StagePart.key, StagePart.part]
    # The newest bytes win: a part that was damaged in storage is mended by the attempt that made it again.
    newest = {"sha256": file.sha256, "bytes": file.bytes, "last_used_at": func.now()}
    session.execute(row.on_conflict_do_update(index_elements=places, set_=newest))
    return job.project_id


def bound_stage(session: Session, project_id: str, stage: Stage, *, most_bytes: int) -> int:
    """Let go of what a project keeps of ``stage`` beyond ``most_bytes``, the longest unused first; return how many."""
    own = (StagePart.project_id == project_id, StagePart.stage == stage)
    newest_first = (StagePart.last_used_at.desc(), StagePart.created_at.desc(), StagePart.key, StagePart.part)
    total = func.sum(StagePart.bytes).over(order_by=newest_first, rows=(None, 0)).label("total")
    places = select(StagePart.key, StagePart.part, total).where(*own).subquery()
    excess = select(places.c.key, places.c.part).where(places.c.total > most_bytes)
    gone = delete(StagePart).where(*own, tuple_(StagePart.key, StagePart.part).in_(excess)).returning(StagePart.part)
    return len(session.execute(gone).all())


def use_parts(session: Session, project_id: str, keys: Iterable[tuple[str, str]]) -> list[tuple[PartId, str]]:
    """Return the project's parts of these (stage, key) pairs with their digests, and note that they are used."""
    wanted = list(keys)
    if not wanted:
        return []
    found = (
        update(StagePart)
        .where(StagePart.project_id == project_id, tuple_(StagePart.stage, StagePart.key).in_(wanted))
        .values(last_used_at=func.now())
        .returning(StagePart.stage, StagePart.key, StagePart.part, StagePart.sha256)
    )
    rows = sorted(session.execute(found).all(), key=lambda row: (row.stage, row.key, row.part))
    return [(PartId(row.stage, row.key, row.part), row.sha256) for row in rows]


def has_parts(session: Session, project_id: str) -> bool:
    """Return whether anything is kept for the project."""
    return session.scalar(select(StagePart.key).where(StagePart.project_id == project_id).limit(1)) is not None


def drop_unused(session: Session, *, seconds: float) -> int:
    """Let go of up to a thousand parts that nobody used for ``seconds``; return how many."""
    age = StagePart.last_used_at < func.now() - literal(timedelta(seconds=seconds))
    places = (StagePart.project_id, StagePart.stage, StagePart.key, StagePart.part)
    chosen = select(*places).where(age).limit(_BATCH).with_for_update(skip_locked=True)
    gone = delete(StagePart).where(tuple_(*places).in_(chosen)).returning(StagePart.part)
    return len(session.execute(gone).all())
