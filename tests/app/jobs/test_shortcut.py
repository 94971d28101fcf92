"""The short way gives the answers of the long one, and only to those who may have them."""

from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.db.base import Json
from app.db.session import SessionFactory
from app.jobs import documents
from app.jobs.documents import JobDocuments
from app.jobs.schemas import JobRead
from app.jobs.wire import read_job
from tests.fixtures.api import PEPPER, Tenant

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def job_id(api_client: TestClient, job_body: dict[str, Any]) -> str:
    body = {**job_body, "metadata": {"name": "Größe 'x' \n"}, "suffix": "short"}
    return str(api_client.post(JOBS, json=body).json()["id"])


@pytest.fixture
def short_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids that took the short way."""
    found: list[str] = []
    find = JobDocuments.find

    async def noted(self: JobDocuments, project_id: str, job_id: str) -> bytes | None:
        found.append(job_id)
        return await find(self, project_id, job_id)

    monkeypatch.setattr(JobDocuments, "find", noted)
    return found


def test_both_ways_give_the_same_answer(
    api_client: TestClient, tenant: Tenant, job_id: str, short_ways: list[str]
) -> None:
    short = api_client.get(f"{JOBS}/{job_id}")
    assert short_ways == [job_id]
    long = api_client.get(f"{JOBS}/{job_id}", headers={"authorization": f"bearer {tenant.key}"})
    assert short_ways == [job_id]
    [listed] = api_client.get(JOBS).json()["data"]
    assert short.json() == long.json() == listed
    assert set(short.headers) == set(long.headers)
    assert short.headers["content-type"] == long.headers["content-type"] == "application/json"
    JobRead.model_validate_json(short.content)


def test_a_job_of_another_project_is_not_found(api_client: TestClient, other_client: TestClient, job_id: str) -> None:
    other_client.get(JOBS)  # its key is known from here on
    answer = other_client.get(f"{JOBS}/{job_id}")
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "fine_tuning_job_id"


def test_a_key_without_the_scope_is_refused(
    api_app: FastAPI, api_client: TestClient, job_id: str, tenant: Tenant, session_factory: SessionFactory
) -> None:
    with session_factory() as session:
        key = api_keys.create_key(session, PEPPER, tenant.project_id, name="files", scopes=["files:read"]).text
    client = TestClient(api_app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False)
    assert client.get("/v1/files").status_code == 200
    assert client.get(f"{JOBS}/{job_id}").status_code == 403


def test_a_key_that_nobody_knows_takes_the_long_way(api_app: FastAPI, job_id: str, short_ways: list[str]) -> None:
    client = TestClient(api_app, headers={"authorization": "Bearer nlft_nobody"})
    assert client.get(f"{JOBS}/{job_id}").status_code == 401
    assert TestClient(api_app).get(f"{JOBS}/{job_id}").status_code == 401
    assert short_ways == []


def test_a_change_is_seen_by_the_next_question(api_client: TestClient, job_id: str) -> None:
    assert api_client.get(f"{JOBS}/{job_id}").json()["status"] == "queued"
    api_client.post(f"{JOBS}/{job_id}/cancel")
    assert api_client.get(f"{JOBS}/{job_id}").json()["status"] == "cancelled"


def test_an_unknown_job_is_not_found(api_client: TestClient, job_id: str) -> None:
    assert api_client.get(f"{JOBS}/{job_id[:-1]}{'0' if job_id[-1] != '0' else '1'}").status_code == 404


def test_an_answer_is_built_once_for_each_version(
    api_client: TestClient, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def noted(row: Any) -> Json:
        built.append(row.status)
        return read_job(row)

    monkeypatch.setattr(documents, "read_job", noted)
    for _ in range(3):
        api_client.get(f"{JOBS}/{job_id}")
    api_client.post(f"{JOBS}/{job_id}/cancel")
    api_client.get(f"{JOBS}/{job_id}")
    assert built == ["queued", "cancelled"]


def test_the_long_way_answers_when_the_short_one_loses_its_connection(
    api_client: TestClient, job_id: str, engine: Engine
) -> None:
    kill = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%ctid%' AND pid <> pg_backend_pid()"
    )
    assert api_client.get(f"{JOBS}/{job_id}").status_code == 200
    for _ in range(3):
        with engine.connect() as connection:
            assert connection.execute(kill).all()
        assert api_client.get(f"{JOBS}/{job_id}").status_code == 200
        assert api_client.get(f"{JOBS}/{job_id}").status_code == 200
