"""However often a create arrives, in whatever order and however close together: one job."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.db.models import FineTuningJob, JobEvent
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import MakeFile, client_beside

JOBS = "/v1/fine_tuning/jobs"
RETRIES = "x-stainless-retry-count"


def create(client: TestClient, body: dict[str, Any], retry: int | str | None = None, key: str | None = None) -> str:
    headers = {} if retry is None else {RETRIES: str(retry)}
    headers |= {} if key is None else {"idempotency-key": key}
    answer = client.post(JOBS, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def arrival(client: TestClient, body: dict[str, Any], **headers: Any) -> Callable[[], str]:
    return lambda: create(client, body, **headers)


def count_jobs(session: Session) -> int:
    return session.scalars(select(func.count()).select_from(FineTuningJob)).one()


def age(session: Session, job_id: str, seconds: float) -> None:
    """Move a job's creation into the past."""
    earlier = FineTuningJob.created_at - timedelta(seconds=seconds)
    session.execute(update(FineTuningJob).where(FineTuningJob.id == job_id).values(created_at=earlier))
    session.commit()


def at_once(calls: list[Callable[[], str]]) -> list[str]:
    """Return what the calls return when threads start them together."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], str]) -> str:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_retries_get_the_first_job(api_client: TestClient, session: Session, job_body: dict[str, Any]) -> None:
    first = create(api_client, job_body, retry=0)
    assert [create(api_client, job_body, retry=count) for count in (1, 2)] == [first, first]
    assert count_jobs(session) == 1
    assert session.scalars(select(func.count()).select_from(JobEvent)).one() == 1


def test_retry_is_known_whatever_the_order_of_its_keys(api_client: TestClient, job_body: dict[str, Any]) -> None:
    body = {**job_body, "metadata": {"a": "1", "b": "2"}}
    first = create(api_client, body, retry=0)
    shuffled = {**dict(reversed(list(job_body.items()))), "metadata": {"b": "2", "a": "1"}}
    assert create(api_client, shuffled, retry=1) == first


def test_equal_creates_that_are_no_retries_make_a_job_each(
    api_client: TestClient, session: Session, job_body: dict[str, Any]
) -> None:
    made = {create(api_client, job_body, retry=count) for count in (None, 0, 0)}
    assert len(made) == 3 == count_jobs(session)


def test_retry_gets_the_latest_of_several_equal_creates(api_client: TestClient, job_body: dict[str, Any]) -> None:
    create(api_client, job_body, retry=0)
    latest = create(api_client, job_body, retry=0)
    assert create(api_client, job_body, retry=1) == latest


def test_retry_of_another_body_makes_its_own_job(api_client: TestClient, job_body: dict[str, Any]) -> None:
    first = create(api_client, job_body, retry=0)
    assert create(api_client, {**job_body, "seed": 1}, retry=1) != first


def test_retry_of_another_project_makes_its_own_job(
    api_client: TestClient, session: Session, job_body: dict[str, Any], other_tenant: Tenant
) -> None:
    first = create(api_client, job_body, retry=0)
    twin = session.get_one(FineTuningJob, first)
    twin.project_id = other_tenant.project_id
    session.commit()
    assert create(api_client, job_body, retry=1) != first


def test_retry_after_the_window_makes_a_new_job(
    api_client: TestClient, session: Session, job_body: dict[str, Any]
) -> None:
    first = create(api_client, job_body, retry=0)
    age(session, first, 599)
    assert create(api_client, job_body, retry=1) == first
    age(session, first, 2)
    assert create(api_client, job_body, retry=2) != first


def test_first_request_adopts_the_job_of_the_retry_that_overtook_it_once(
    api_client: TestClient, session: Session, job_body: dict[str, Any]
) -> None:
    made_by_retry = create(api_client, job_body, retry=1)
    assert create(api_client, job_body, retry=2) == made_by_retry
    assert create(api_client, job_body, retry=0) == made_by_retry
    assert create(api_client, job_body, retry=0) != made_by_retry, "a second create of the user's own"
    assert count_jobs(session) == 2


def test_first_request_does_not_adopt_an_old_job(
    api_client: TestClient, session: Session, job_body: dict[str, Any]
) -> None:
    made_by_retry = create(api_client, job_body, retry=1)
    age(session, made_by_retry, 61)
    assert create(api_client, job_body, retry=0) != made_by_retry


def test_retry_gets_its_job_even_when_the_request_would_now_be_refused(
    api_client: TestClient, job_body: dict[str, Any]
) -> None:
    first = create(api_client, job_body, retry=0)
    assert api_client.post(f"{JOBS}/{first}/cancel").status_code == 200
    assert api_client.delete(f"/v1/files/{job_body['training_file']}").status_code == 200
    assert create(api_client, job_body, retry=1) == first
    assert api_client.post(JOBS, json=job_body).json()["error"]["code"] == "file_not_found"


@pytest.mark.parametrize("counter", ["-1", "one", "1e3", "9" * 5000, "²"])
def test_counter_that_is_no_number_is_no_retry(
    api_client: TestClient, session: Session, job_body: dict[str, Any], counter: str
) -> None:
    for _ in range(2):
        headers = {RETRIES: counter.encode()}
        assert api_client.post(JOBS, json=job_body, headers=headers).status_code == 200  # type: ignore[arg-type]
    assert count_jobs(session) == 2


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (0, 1, 2, 2)])
def test_arrivals_at_the_same_moment_make_one_job(
    api_client: TestClient, session: Session, job_body: dict[str, Any], counts: tuple[int, ...]
) -> None:
    for tag in range(8):
        body = {**job_body, "metadata": {"tag": str(tag)}}
        made = at_once([arrival(client_beside(api_client), body, retry=count) for count in counts])
        assert len(set(made)) == 1
    assert count_jobs(session) == 8


def test_key_returns_its_job_for_good(api_client: TestClient, session: Session, job_body: dict[str, Any]) -> None:
    first = create(api_client, job_body, key="k1")
    age(session, first, 100_000)
    assert create(api_client, job_body, key="k1") == first
    assert create(api_client, job_body, key="k1", retry=2) == first
    assert create(api_client, job_body, key="k2") != first
    assert count_jobs(session) == 2


def test_key_with_another_body_is_a_conflict(
    api_client: TestClient, session: Session, job_body: dict[str, Any]
) -> None:
    create(api_client, job_body, key="k1")
    answer = api_client.post(JOBS, json={**job_body, "seed": 3}, headers={"idempotency-key": "k1"})
    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "idempotency_key_reused"
    assert count_jobs(session) == 1


def test_keys_of_two_projects_do_not_meet(
    api_client: TestClient,
    other_client: TestClient,
    job_body: dict[str, Any],
    make_file: MakeFile,
    other_tenant: Tenant,
) -> None:
    create(api_client, job_body, key="k1")
    theirs = {**job_body, "training_file": make_file(project_id=other_tenant.project_id)}
    theirs_id = create(other_client, theirs, key="k1")
    assert create(other_client, theirs, key="k1") == theirs_id
    assert other_client.get(f"{JOBS}/{theirs_id}").status_code == 200


def test_keyed_creates_at_the_same_moment_make_one_job(
    api_client: TestClient, session: Session, job_body: dict[str, Any]
) -> None:
    made = at_once([arrival(client_beside(api_client), job_body, key="k1") for _ in range(4)])
    assert len(set(made)) == 1
    assert count_jobs(session) == 1


def test_job_made_with_a_key_is_not_adopted(api_client: TestClient, job_body: dict[str, Any]) -> None:
    keyed = create(api_client, job_body, key="k1", retry=1)
    assert create(api_client, job_body, retry=0) != keyed


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_unfit_key_is_refused(api_client: TestClient, job_body: dict[str, Any], key: str) -> None:
    answer = api_client.post(JOBS, json=job_body, headers={"idempotency-key": key})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "Idempotency-Key"


def test_refused_create_leaves_its_key_free(api_client: TestClient, job_body: dict[str, Any]) -> None:
    headers = {"idempotency-key": "k1"}
    assert api_client.post(JOBS, json={**job_body, "training_file": "file-x"}, headers=headers).status_code == 400
    assert create(api_client, job_body, key="k1")
