"""What the building stages need of a worker: answers of endpoints, kept results, a file of the built rows."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.completions import asking
from app.completions.configuration import Endpoints
from app.core.settings import Settings
from app.db.models import Adapter, Artifact, File, FineTuningJob, StagePart
from app.db.session import SessionFactory, transaction
from app.jobs import lifecycle
from tests.app.completions.asking import endpoints_of
from tests.fixtures.endpoints import KEY, FakeEndpoint, Reply
from tests.worker.scripted_jobs import (
    BUILDING_COMMAND,
    RAW_ROWS,
    add_job,
    add_project,
    read_attempts,
    read_events,
    read_job,
    wait_until,
)
from worker.context import WorkerContext
from worker.runner import run_available

DATASET = (
    '{"messages": [{"role": "user", "content": "2+2?"}], "response": "4", "reference": "#### 4", "correct": true}\n'
    '{"messages": [{"role": "user", "content": "2+2?"}], "response": "5", "reference": "#### 4", "correct": false,'
    ' "judgment": "It is 4."}\n'
)


@pytest.fixture
def context(quick: Settings, session_factory: SessionFactory) -> Iterator[WorkerContext]:
    built = WorkerContext.from_settings(quick, child_command=BUILDING_COMMAND)
    yield built
    built.draining.set()
    built.close()


@pytest.fixture
def project(context: WorkerContext) -> str:
    return add_project(context.factory, context.store, RAW_ROWS)


@pytest.fixture
def asker(context: WorkerContext, fake_endpoint: FakeEndpoint) -> WorkerContext:
    """The worker with one endpoint."""
    return replace(context, endpoints=endpoints_of(fake_endpoint, timeout_seconds=10))


def run(context: WorkerContext, project: str, **script: Any) -> FineTuningJob:
    job_id = add_job(context.factory, project, **script)
    wait_until(lambda: run_available(context) >= 0 and is_settled(context, job_id), what="the job settles")
    return read_job(context.factory, job_id)


def is_settled(context: WorkerContext, job_id: str) -> bool:
    return read_job(context.factory, job_id).status not in {"queued", "running"}


def messages(context: WorkerContext, job: FineTuningJob) -> list[str]:
    return [event.message for event in read_events(context.factory, job.id)]


def test_a_child_gets_the_answers_of_endpoints_and_never_the_key(
    asker: WorkerContext, project: str, fake_endpoint: FakeEndpoint
) -> None:
    fake_endpoint.behaviour = lambda asked: Reply(asked.text.upper())
    job = run(asker, project, questions=3)
    told = messages(asker, job)
    assert job.status == "succeeded"
    assert "answers: QUESTION 0 QUESTION 1 QUESTION 2" in told
    assert "Asked endpoints 3 question(s): 3 answered." in told
    assert KEY not in json.dumps([job.spec, job.method, told])
    assert fake_endpoint.url not in json.dumps([job.spec, job.method, told])


def test_questions_to_nobody_and_to_an_endpoint_that_refuses_are_answered_with_codes(
    asker: WorkerContext, context: WorkerContext, project: str, fake_endpoint: FakeEndpoint
) -> None:
    told = messages(context, run(context, project, questions=2))
    assert "answers: unknown_endpoint unknown_endpoint" in told
    fake_endpoint.script(Reply(status=401))
    job = run(asker, project, questions=2)
    assert "Asked endpoints 2 question(s): 0 answered, 2 refused." in messages(asker, job)
    (warning,) = [event for event in read_events(asker.factory, job.id) if event.message.startswith("Asked")]
    assert (warning.level, warning.data) == ("warn", {"answered": 0, "failed": {"refused": 2}})


def test_a_repeated_attempt_and_a_second_job_pay_nothing_again(
    asker: WorkerContext, project: str, fake_endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    job = run(asker, project, questions=5, crash_marker=str(tmp_path / "crashed"))
    assert [attempt.outcome for attempt in read_attempts(asker.factory, job.id)] == ["lost", "succeeded"]
    assert run(asker, project, questions=5).status == "succeeded"
    assert len(fake_endpoint.asked) == 5


def test_a_child_that_waits_for_an_answer_is_not_stalled(
    asker: WorkerContext, project: str, fake_endpoint: FakeEndpoint
) -> None:
    fake_endpoint.script(Reply("at last", seconds=5.0))
    impatient = replace(asker, settings=asker.settings.model_copy(update={"stall_seconds": 2.0}))
    job = run(impatient, project, questions=1)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert "answers: at last" in messages(asker, job)


def test_an_endpoint_that_never_answers_ends_in_a_timeout_and_not_in_a_stall(
    asker: WorkerContext, project: str, fake_endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.01)
    fake_endpoint.script(Reply(hangs=True))
    quick = replace(asker, endpoints=endpoints_of(fake_endpoint, timeout_seconds=0.5, attempts=2))
    job = run(quick, project, questions=1)
    assert job.status == "succeeded"
    assert "answers: timeout" in messages(asker, job)


def test_a_cancel_is_heard_while_an_endpoint_hangs(
    asker: WorkerContext, project: str, fake_endpoint: FakeEndpoint
) -> None:
    fake_endpoint.script(Reply(hangs=True))
    patient = replace(asker, endpoints=endpoints_of(fake_endpoint, timeout_seconds=60))
    job_id = add_job(patient.factory, project, questions=3)
    slot = threading.Thread(target=run_available, args=(patient, job_id))
    slot.start()
    wait_until(lambda: bool(fake_endpoint.asked), what="the first question")
    began = time.monotonic()
    with transaction(patient.factory) as session:
        lifecycle.request_cancel(session, project, job_id)
    slot.join(20)
    assert not slot.is_alive()
    assert read_job(patient.factory, job_id).status == "cancelled"
    assert time.monotonic() - began < 8


def test_a_worker_that_drains_puts_a_waiting_job_back(
    asker: WorkerContext, project: str, fake_endpoint: FakeEndpoint
) -> None:
    fake_endpoint.script(Reply(hangs=True))
    leaving = replace(asker, draining=threading.Event())
    job_id = add_job(leaving.factory, project, questions=1)
    slot = threading.Thread(target=run_available, args=(leaving, job_id))
    slot.start()
    wait_until(lambda: bool(fake_endpoint.asked), what="the question")
    leaving.draining.set()
    slot.join(20)
    assert not slot.is_alive()
    job = read_job(leaving.factory, job_id)
    assert (job.status, job.lost_count) == ("queued", 0)


def test_a_stage_is_made_once_for_all_attempts_and_jobs_of_a_project(
    context: WorkerContext, project: str, tmp_path: Path
) -> None:
    job = run(context, project, parts=3, crash_marker=str(tmp_path / "crashed"))
    assert [message for message in messages(context, job) if message.startswith("made")] == [
        "made 3 parts",
        "made 0 parts",
    ]
    assert "made 2 parts" in messages(context, run(context, project, parts=5))
    stranger = add_project(context.factory, context.store, RAW_ROWS)
    assert "made 3 parts" in messages(context, run(context, stranger, parts=3))
    with context.factory() as session:
        assert session.scalar(select(func.count()).select_from(StagePart)) == 8


def test_a_damaged_part_is_made_again_and_mended(context: WorkerContext, project: str, tmp_path: Path) -> None:
    run(context, project, parts=2)
    with context.factory() as session:
        digest = session.scalars(select(StagePart.sha256).where(StagePart.part == 1)).one()
    (blob,) = (tmp_path / "blobs").rglob(digest)
    blob.write_bytes(b"damaged")
    assert "made 1 parts" in messages(context, run(context, project, parts=2))


@pytest.mark.parametrize("stray", ["spec.json", "stages/../spec.json", "/etc/hostname", "stages/nothing"])
def test_a_part_elsewhere_is_not_taken(context: WorkerContext, project: str, stray: str) -> None:
    job = run(context, project, stray=stray)
    assert job.status == "succeeded"
    assert "Part 0 of the rollout could not be stored; training goes on." in messages(context, job)
    with context.factory() as session:
        assert session.scalars(select(StagePart)).all() == []


def test_a_part_with_an_endless_key_is_not_taken(context: WorkerContext, project: str) -> None:
    job = run(context, project, parts=1, stray="stages", key="k" * 100_000)
    assert job.status == "succeeded"
    assert "Part 0 of the rollout could not be stored; training goes on." in messages(context, job)


def test_a_built_dataset_is_an_artifact_and_a_file_that_can_be_trained_on(context: WorkerContext, project: str) -> None:
    job = run(context, project, dataset=DATASET)
    with context.factory() as session:
        file = session.get_one(File, job.built_file_id)
        adapter = session.scalars(select(Adapter).where(Adapter.job_id == job.id)).one()
        artifact = session.get_one(Artifact, (adapter.id, "dataset.jsonl"))
    assert b"".join(context.store.read(file.sha256)).decode() == DATASET
    assert (file.project_id, file.purpose, file.filename) == (project, "fine-tune", "dataset.jsonl")
    assert file.report is not None
    assert (file.report["format"], file.report["rows"]) == ("nlft", 2)
    assert file.report["counts"] == {"right": 1, "wrong": 1}
    assert artifact.sha256 == file.sha256
    assert file.id not in job.result_files


def test_a_dataset_that_no_upload_would_take_is_no_file(context: WorkerContext, project: str) -> None:
    job = run(context, project, dataset='{"messages": 7}\n')
    assert (job.status, job.built_file_id) == ("succeeded", None)


def test_a_job_that_builds_nothing_has_no_built_file(context: WorkerContext, project: str) -> None:
    job = run(context, project)
    assert (job.status, job.built_file_id) == ("succeeded", None)


def test_an_unreadable_file_of_endpoints_stops_the_worker_at_its_start(quick: Settings, tmp_path: Path) -> None:
    path = tmp_path / "endpoints.toml"
    path.write_text("[judge")
    with pytest.raises(ValueError, match="NLFT_ENDPOINTS_FILE"):
        WorkerContext.from_settings(quick.model_copy(update={"endpoints_file": path}))


def test_without_endpoints_there_are_none(context: WorkerContext) -> None:
    assert context.endpoints.items() == Endpoints().items() == []
