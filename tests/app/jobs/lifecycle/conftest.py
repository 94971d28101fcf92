"""A project, a queued job of it, its lease and a result to publish."""

from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import File
from app.db.session import SessionFactory
from app.jobs.leases import Lease
from app.jobs.publication import JobResult, StoredFile
from app.storage import BlobStore
from tests.app.jobs.lifecycle.steps import claim
from tests.worker.scripted_jobs import add_project, file_id, submit_job


@pytest.fixture
def project(session_factory: SessionFactory, store: BlobStore) -> str:
    return add_project(session_factory, store)


@pytest.fixture
def job_id(session: Session, project: str) -> str:
    return submit_job(session, project)


@pytest.fixture
def lease(session: Session, job_id: str) -> Lease:
    return claim(session, job_id)


@pytest.fixture
def result(session: Session, project: str) -> JobResult:
    stored = session.scalars(select(File).where(File.id == file_id(project))).one()
    one = StoredFile("metrics.csv", stored.sha256, stored.bytes)
    return JobResult(7, {"train_loss": 1.5}, (one,), (one, replace(one, name="adapter.tar")))
