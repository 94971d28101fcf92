"""Letting go of an adapter: which rows must go so that the collector may take its bytes."""

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db.models import Adapter, Artifact, File, FineTuningJob


def release_adapter(session: Session, adapter: Adapter) -> None:
    """Mark a locked adapter deleted, and drop the rows of its files and of its tar; the caller commits.

    The job and its metrics file stay: they are the record of what was done.
    """
    adapter.deleted_at = session.scalar(select(func.now()))
    session.execute(delete(Artifact).where(Artifact.owner_id == adapter.id))
    archive = select(FineTuningJob.result_files[2]).where(FineTuningJob.id == adapter.job_id).scalar_subquery()
    session.execute(delete(File).where(File.id == archive, File.project_id == adapter.project_id))
