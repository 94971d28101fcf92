"""Creates that share a transaction: each gets what it would have got alone."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.db.models import FileHold, FineTuningJob, JobEvent
from app.jobs import repository
from app.jobs.admission import Admission
from app.main import create_app
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import MakeFile

JOBS = "/v1/fine_tuning/jobs"
Call = tuple[Tenant, dict[str, Any], dict[str, str]]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the transactions that calls shared."""
    sizes: list[int] = []
    admit_together = Admission.admit_together

    def noted(self: Admission, session: Session, calls: Sequence[Any]) -> Any:
        sizes.append(len(calls))
        return admit_together(self, session, calls)

    monkeypatch.setattr(Admission, "admit_together", noted)
    return sizes


@pytest.fixture
def poison(engine: Engine, session: Session) -> Iterator[dict[str, str]]:
    """Metadata that the database refuses to store."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'poison' USING ERRCODE = 'check_violation'; END $$;"
                "CREATE TRIGGER refuse_poison BEFORE INSERT ON fine_tuning_jobs FOR EACH ROW"
                " WHEN (NEW.metadata ? 'poison') EXECUTE FUNCTION refuse_poison()"
            )
        )
    yield {"poison": "yes"}
    session.rollback()  # whoever has read the table keeps its triggers
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER refuse_poison ON fine_tuning_jobs; DROP FUNCTION refuse_poison()"))


def send(app: FastAPI, calls: Sequence[Call]) -> list[httpx.Response]:
    """Send all calls in one turn of an event loop, whose callers' keys are known."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            for tenant in {tenant.key: tenant for tenant, _, _ in calls}.values():
                await client.get(JOBS, headers=tenant.headers)
            posts = (client.post(JOBS, json=body, headers={**tenant.headers, **more}) for tenant, body, more in calls)
            return await asyncio.gather(*posts)

    return asyncio.run(ask())


def numbered(body: dict[str, Any], number: int) -> dict[str, Any]:
    return {**body, "metadata": {"number": str(number)}}


def count(session: Session, table: Any) -> int:
    return session.scalars(select(func.count()).select_from(table)).one()


@contextmanager
def creation_locked(engine: Engine, project_id: str) -> Iterator[None]:
    with Session(engine) as other:
        repository.lock_creation(other, [project_id])
        yield


def test_calls_that_come_together_share_a_transaction(
    api_app: FastAPI, tenant: Tenant, session: Session, job_body: dict[str, Any], batches: list[int]
) -> None:
    answers = send(api_app, [(tenant, numbered(job_body, number), {}) for number in range(20)])
    assert batches == [20]
    jobs = [answer.json() for answer in answers]
    assert [job["metadata"]["number"] for job in jobs] == [str(number) for number in range(20)]
    assert len({job["id"] for job in jobs}) == 20
    assert count(session, FineTuningJob) == count(session, FileHold) == count(session, JobEvent) == 20
    stored = session.scalars(select(FineTuningJob)).all()
    assert {(job.status, job.dispatch_count, job.attempt) for job in stored} == {("queued", 1, 0)}
    assert {int(job.created_at.timestamp()) for job in stored} == {job["created_at"] for job in jobs}


def test_answers_are_those_of_a_later_question(
    api_app: FastAPI, api_client: TestClient, tenant: Tenant, job_body: dict[str, Any]
) -> None:
    answers = [
        answer.json() for answer in send(api_app, [(tenant, numbered(job_body, number), {}) for number in (1, 2)])
    ]
    assert answers == [api_client.get(f"{JOBS}/{answer['id']}").json() for answer in answers]


def test_calls_with_one_key_make_one_job(
    api_app: FastAPI, tenant: Tenant, session: Session, job_body: dict[str, Any], batches: list[int]
) -> None:
    keyed: list[Call] = [(tenant, job_body, {"idempotency-key": "k"})] * 6
    others: list[Call] = [(tenant, numbered(job_body, number), {}) for number in range(6)]
    answers = send(api_app, [call for pair in zip(keyed, others, strict=True) for call in pair])
    assert batches == [12]
    assert len({answer.json()["id"] for answer in answers[::2]}) == 1
    assert len({answer.json()["id"] for answer in answers}) == 7 == count(session, FineTuningJob)


def test_key_with_two_bodies_is_a_conflict_for_one_of_them(
    api_app: FastAPI, tenant: Tenant, session: Session, job_body: dict[str, Any], batches: list[int]
) -> None:
    key = {"idempotency-key": "k"}
    answers = send(api_app, [(tenant, job_body, key), (tenant, {**job_body, "seed": 3}, key)])
    assert batches == [2]
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert count(session, FineTuningJob) == 1


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (0, 1, 2, 2)])
def test_counted_retries_beside_their_first_call_make_one_job(
    api_app: FastAPI,
    tenant: Tenant,
    session: Session,
    *,
    job_body: dict[str, Any],
    batches: list[int],
    counts: tuple[int, ...],
) -> None:
    answers = send(api_app, [(tenant, job_body, {"x-stainless-retry-count": str(one)}) for one in counts])
    assert batches == [len(counts)]
    assert len({answer.json()["id"] for answer in answers}) == 1 == count(session, FineTuningJob)


def test_equal_calls_that_are_no_retries_make_a_job_each(
    api_app: FastAPI, tenant: Tenant, session: Session, job_body: dict[str, Any]
) -> None:
    answers = send(api_app, [(tenant, job_body, {})] * 4)
    assert len({answer.json()["id"] for answer in answers}) == 4 == count(session, FineTuningJob)


def test_refused_neighbours_leave_the_others_alone(
    api_app: FastAPI, tenant: Tenant, session: Session, job_body: dict[str, Any], batches: list[int]
) -> None:
    block = {"type": "nlft", "nlft": {"hyperparameters": {"n_epochs": -1}}}
    bodies = [job_body, {**job_body, "training_file": "file-x"}, {**job_body, "model": "m"}]
    answers = send(api_app, [(tenant, body, {}) for body in [*bodies, {**job_body, "method": block}]])
    assert batches == [4]
    assert [answer.status_code for answer in answers] == [200, 400, 404, 400]
    params = [answer.json()["error"]["param"] for answer in answers[1:]]
    assert params == ["training_file", "model", "method.nlft.hyperparameters.n_epochs"]
    assert count(session, FineTuningJob) == 1


def test_neighbour_that_breaks_the_transaction_fails_alone(
    api_app: FastAPI,
    tenant: Tenant,
    session: Session,
    *,
    job_body: dict[str, Any],
    batches: list[int],
    poison: dict[str, str],
) -> None:
    bodies = [numbered(job_body, number) for number in range(8)]
    bodies[5] = {**job_body, "metadata": poison}
    answers = send(api_app, [(tenant, body, {}) for body in bodies])
    assert batches == [8]
    assert [answer.status_code for answer in answers] == [200] * 5 + [500] + [200] * 2
    assert count(session, FineTuningJob) == count(session, JobEvent) == 7


def test_quota_counts_the_neighbours(
    settings: Settings, tenant: Tenant, session: Session, job_body: dict[str, Any], batches: list[int]
) -> None:
    app = create_app(settings.model_copy(update={"max_queued_jobs": 3}), reconcile=False)
    answers = send(app, [(tenant, numbered(job_body, number), {}) for number in range(6)])
    app.state.resources.close()
    assert batches == [6]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 3
    assert count(session, FineTuningJob) == 3


def test_projects_share_a_transaction_and_nothing_else(
    api_app: FastAPI,
    tenant: Tenant,
    other_tenant: Tenant,
    *,
    job_body: dict[str, Any],
    make_file: MakeFile,
    batches: list[int],
) -> None:
    theirs = {**job_body, "training_file": make_file(project_id=other_tenant.project_id)}
    key = {"idempotency-key": "k"}
    calls = [(tenant, job_body, key), (other_tenant, theirs, key), (tenant, theirs, {}), (other_tenant, job_body, {})]
    answers = send(api_app, calls)
    assert batches == [4]
    mine, other, *foreign = answers
    assert mine.json()["organization_id"] == tenant.project_id
    assert other.json()["organization_id"] == other_tenant.project_id
    assert [answer.json()["error"]["code"] for answer in foreign] == ["file_not_found"] * 2


def test_project_that_is_locked_elsewhere_holds_up_itself_only(
    api_app: FastAPI,
    tenant: Tenant,
    other_tenant: Tenant,
    *,
    engine: Engine,
    session: Session,
    job_body: dict[str, Any],
    make_file: MakeFile,
) -> None:
    theirs = {**job_body, "training_file": make_file(project_id=other_tenant.project_id)}

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(api_app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            for caller in (tenant, other_tenant):
                await client.get(JOBS, headers=caller.headers)
            with creation_locked(engine, tenant.project_id):
                stuck = asyncio.ensure_future(client.post(JOBS, json=job_body, headers=tenant.headers))
                passed = await client.post(JOBS, json=theirs, headers=other_tenant.headers)
                assert not stuck.done()
            return await stuck, passed

    stuck, passed = asyncio.run(ask())
    assert (stuck.status_code, passed.status_code) == (200, 200)
    assert count(session, FineTuningJob) == 2
