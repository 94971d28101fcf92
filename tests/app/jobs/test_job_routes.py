"""One job: what it shows in each state, cancelling, what is not offered, who may see it."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.db.session import SessionFactory, transaction
from app.jobs import lifecycle
from app.jobs.attempts import AttemptRecord, JobError
from app.jobs.leases import Heartbeat
from tests.fixtures.api import PEPPER, Tenant
from tests.fixtures.fine_tuning import claim_job

JOBS = "/v1/fine_tuning/jobs"
ROUTES = [
    ("GET", ""),
    ("POST", "/cancel"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("GET", "/events"),
    ("GET", "/checkpoints"),
    ("GET", "/artifacts"),
]


@pytest.fixture
def job_id(api_client: TestClient, job_body: dict[str, Any]) -> str:
    return str(api_client.post(JOBS, json=job_body).json()["id"])


def show(client: TestClient, job_id: str) -> dict[str, Any]:
    answer = client.get(f"{JOBS}/{job_id}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def test_created_job_is_shown_as_it_was_answered(api_client: TestClient, job_body: dict[str, Any]) -> None:
    answered = api_client.post(JOBS, json=job_body).json()
    assert show(api_client, answered["id"]) == answered


def test_succeeded_job_names_its_results(api_client: TestClient, job_id: str, finish: Any) -> None:
    finish(job_id)
    job = show(api_client, job_id)
    assert job["status"] == "succeeded"
    assert job["fine_tuned_model"].startswith(f"ft:{job['model']}:")
    assert job["fine_tuned_model"].endswith(job_id[-8:])
    assert job["trained_tokens"] == 1234
    assert job["finished_at"] >= job["created_at"]
    files = [api_client.get(f"/v1/files/{file_id}").json() for file_id in job["result_files"]]
    assert [file["filename"] for file in files] == ["metrics.csv", "adapter.tar"]
    assert {file["purpose"] for file in files} == {"fine-tune-results"}


def test_running_job_shows_its_attempt(api_client: TestClient, session_factory: SessionFactory, job_id: str) -> None:
    lease = claim_job(session_factory, job_id)
    heartbeat = Heartbeat(phase="training", progress={"done": 1, "total": 4}, remaining_seconds=60)
    with transaction(session_factory) as session:
        lifecycle.renew(session, lease, lease_seconds=60, heartbeat=heartbeat)
    job = show(api_client, job_id)
    assert job["status"] == "running"
    expected = {
        "phase": "training",
        "progress": {"done": 1, "total": 4},
        "attempt": 1,
        "cancel_requested_at": None,
        "base_model_digest": "d" * 64,
    }
    assert job["service"] | expected == job["service"]
    assert 50 <= job["estimated_finish"] - job["created_at"] <= 70


def test_failed_job_says_why(api_client: TestClient, session_factory: SessionFactory, job_id: str) -> None:
    lease = claim_job(session_factory, job_id)
    error = JobError("invalid_training_file", "line 3: response: missing", "training_file")
    with transaction(session_factory) as session:
        lifecycle.fail(session, lease, error, AttemptRecord("failed", exit_code=10))
    job = show(api_client, job_id)
    assert job["status"] == "failed"
    assert job["error"] == {"code": error.code, "message": error.message, "param": error.param}


def test_queued_job_is_cancelled_at_once_and_frees_its_file(
    api_client: TestClient, job_body: dict[str, Any], job_id: str
) -> None:
    file = f"/v1/files/{job_body['training_file']}"
    assert api_client.delete(file).status_code == 409
    cancelled = api_client.post(f"{JOBS}/{job_id}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json() == show(api_client, job_id)
    assert cancelled.json()["status"] == "cancelled"
    assert cancelled.json()["finished_at"] is not None
    assert api_client.delete(file).status_code == 200


def test_running_job_is_marked_and_marking_again_changes_nothing(
    api_client: TestClient, session_factory: SessionFactory, job_id: str
) -> None:
    claim_job(session_factory, job_id)
    first = api_client.post(f"{JOBS}/{job_id}/cancel").json()
    assert first["status"] == "running"
    assert first["service"]["cancel_requested_at"] is not None
    assert api_client.post(f"{JOBS}/{job_id}/cancel").json() == first
    messages = [event["message"] for event in api_client.get(f"{JOBS}/{job_id}/events").json()["data"]]
    assert messages.count("Cancellation requested.") == 1


def test_finished_job_cannot_be_cancelled(api_client: TestClient, job_id: str, finish: Any) -> None:
    finish(job_id)
    before = show(api_client, job_id)
    answer = api_client.post(f"{JOBS}/{job_id}/cancel")
    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    assert "succeeded" in answer.json()["error"]["message"]
    assert show(api_client, job_id) == before


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_pausing_is_refused_clearly(api_client: TestClient, job_id: str, action: str) -> None:
    answer = api_client.post(f"{JOBS}/{job_id}/{action}", headers={"content-type": "application/json"})
    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "not_supported"
    assert show(api_client, job_id)["status"] == "queued"


@pytest.mark.parametrize(("verb", "path"), ROUTES)
def test_foreign_job_is_answered_like_an_unknown_one(
    api_client: TestClient, other_client: TestClient, job_id: str, verb: str, path: str
) -> None:
    foreign = other_client.request(verb, f"{JOBS}/{job_id}{path}")
    unknown = other_client.request(verb, f"{JOBS}/ftjob-none{path}")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["error"] == {
        **unknown.json()["error"],
        "message": unknown.json()["error"]["message"].replace("ftjob-none", job_id),
    }
    assert show(api_client, job_id)["status"] == "queued"


@pytest.mark.parametrize(("verb", "path"), [*ROUTES, ("POST", "*"), ("GET", "*")])
def test_every_route_needs_a_key_with_its_scope(
    api_client: TestClient, session_factory: SessionFactory, tenant: Tenant, verb: str, path: str
) -> None:
    with session_factory() as session:
        created = api_keys.create_key(session, PEPPER, tenant.project_id, name="files", scopes=[Scope.FILES_READ])
    url = JOBS if path == "*" else f"{JOBS}/ftjob-none{path}"
    body = {"model": "m", "training_file": "f"} if (verb, path) == ("POST", "*") else None
    for header, status in ((f"Bearer {created.text}", 403), ("Bearer nobody", 401), ("", 401)):
        assert api_client.request(verb, url, headers={"authorization": header}, json=body).status_code == status


@pytest.mark.parametrize(("path", "status"), [("%00", 400), ("..%2f..", 404), ("a" * 3000, 404), ("%F0%9F%98%80", 404)])
def test_odd_ids_are_no_jobs(api_client: TestClient, path: str, status: int) -> None:
    answer = api_client.get(f"{JOBS}/{path}")
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
