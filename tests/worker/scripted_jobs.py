"""Jobs whose trainer is ``scripted_trainer.py``, and what the worker tests look at afterwards."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.settings import Settings
from app.db.models import BaseModel, Blob, File, FineTuningJob, JobAttempt, JobEvent, Project
from app.db.session import SessionFactory, transaction
from app.jobs import lifecycle
from app.storage import BlobStore
from worker.training.spec import BaseModelRef, TrainingSpec

SCRIPTED_COMMAND = (sys.executable, str(Path(__file__).with_name("scripted_trainer.py")))
BASE_MODEL = "tiny-random"
BUILDING_COMMAND = (sys.executable, str(Path(__file__).with_name("building_trainer.py")))
RAW_ROWS = b'{"messages": [{"role": "user", "content": "2+2?"}], "reference": "#### 4"}\n'
ROWS = b'{"messages": [{"role": "user", "content": "2+2?"}], "response": "4", "reference": "#### 4"}\n'


def quick_settings(database_url: str, broker_url: str, root: Path, **changes: Any) -> Settings:
    """Return settings with every timing shrunk for tests; state and blobs lie below ``root``."""
    timings: dict[str, Any] = {
        "lease_seconds": 4.0,
        "renew_seconds": 0.5,
        "reconcile_seconds": 0.5,
        "republish_seconds": 1.0,
        "poll_seconds": 1.0,
        "stop_grace_seconds": 3.0,
        "stall_seconds": 20.0,
        "disconnect_seconds": 30.0,
        "retry_backoff_seconds": 0.1,
        "worker_threads": 1,
    }
    return Settings(
        DATABASE_URL=SecretStr(database_url),
        BROKER_URL=SecretStr(broker_url),
        STORAGE_URL=f"file://{root}/blobs",
        api_key_pepper=SecretStr("pepper of the tests"),
        state_dir=root / "state",
        **(timings | changes),
    )


def add_project(factory: SessionFactory, store: BlobStore, rows: bytes = ROWS) -> str:
    """Insert a project with a base model and the file that every scripted job trains on; return its id."""
    project_id = ids.new_id(ids.PROJECT)
    blob = store.put_bytes(rows)
    with transaction(factory) as session:
        session.add(Project(id=project_id, name="Tests"))
        if session.get(BaseModel, BASE_MODEL) is None:
            session.add(_base_model())
        if session.get(Blob, blob.sha256) is None:
            session.add(Blob(sha256=blob.sha256, bytes=blob.bytes))
        session.flush()
        session.add(
            File(
                id=file_id(project_id),
                project_id=project_id,
                filename="rows.jsonl",
                purpose="fine-tune",
                bytes=blob.bytes,
                sha256=blob.sha256,
            )
        )
    return project_id


def file_id(project_id: str) -> str:
    """Return the id of the project's training file."""
    return ids.FILE + project_id.removeprefix(ids.PROJECT)


def submit_job(
    session: Session, project_id: str, script: dict[str, Any] | None = None, *, priority: int = 0, n_gpus: int = 1
) -> str:
    """Insert a job that runs ``script``; the caller commits."""
    job_id = ids.new_id(ids.JOB)
    spec = TrainingSpec(
        job_id=job_id,
        base_model=BaseModelRef(name=BASE_MODEL, path="/nowhere", digest="d" * 64),
        method="scripted",
        hyperparameters=script or {},
        n_gpus=n_gpus,
    )
    job = FineTuningJob(
        id=job_id,
        project_id=project_id,
        model=BASE_MODEL,
        base_model_id=BASE_MODEL,
        training_file_id=file_id(project_id),
        seed=0,
        method={"type": "scripted"},
        spec=spec.model_dump(mode="json"),
        request_digest="",
        priority=priority,
        n_gpus=n_gpus,
    )
    lifecycle.submit(session, [job])
    return job_id


def add_job(factory: SessionFactory, project_id: str, **script: Any) -> str:
    """Commit a job that runs ``script``; return its id."""
    with transaction(factory) as session:
        return submit_job(session, project_id, script)


def read_job(factory: SessionFactory, job_id: str) -> FineTuningJob:
    """Return the job as it is committed now."""
    with factory() as session:
        return session.scalars(select(FineTuningJob).where(FineTuningJob.id == job_id)).one()


def read_events(factory: SessionFactory, job_id: str) -> Sequence[JobEvent]:
    """Return the job's events, oldest first."""
    with factory() as session:
        return session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.sequence)).all()


def read_attempts(factory: SessionFactory, job_id: str) -> Sequence[JobAttempt]:
    """Return the job's attempts in order."""
    with factory() as session:
        found = select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.attempt)
        return session.scalars(found).all()


def wait_until(condition: Callable[[], bool], *, seconds: float = 30.0, what: str = "") -> None:
    """Poll ``condition`` until it holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting: {what or condition}"
        time.sleep(0.02)


def _base_model() -> BaseModel:
    return BaseModel(
        id=BASE_MODEL,
        path="/nowhere",
        digest="d" * 64,
        architecture="LlamaForCausalLM",
        parameters=1,
        context_length=512,
        details={},
    )
