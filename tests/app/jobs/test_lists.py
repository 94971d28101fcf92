"""Lists of jobs, events, checkpoints and artifacts: order, pages, filters."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.db.models import Adapter, FineTuningJob
from app.db.session import SessionFactory, transaction
from app.jobs import lifecycle
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import ADAPTER_FILES, MakeFile

JOBS = "/v1/fine_tuning/jobs"


def create(client: TestClient, body: dict[str, Any], **changes: Any) -> str:
    answer = client.post(JOBS, json={**body, **changes})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def page(client: TestClient, path: str, **query: Any) -> dict[str, Any]:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["object"] == "list"
    return found


def walk(client: TestClient, path: str, limit: int) -> list[list[dict[str, Any]]]:
    """Return all pages, asking for each with the last id of the one before."""
    pages: list[list[dict[str, Any]]] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        found = page(client, path, **query)
        pages.append(found["data"])
        if not found["has_more"]:
            return pages
        assert found["last_id"] == found["data"][-1]["id"]
        query["after"] = found["last_id"]


def test_jobs_come_newest_first_over_three_pages(api_client: TestClient, job_body: dict[str, Any]) -> None:
    made = [create(api_client, job_body) for _ in range(5)]
    pages = walk(api_client, JOBS, limit=2)
    assert [len(found) for found in pages] == [2, 2, 1]
    assert [job["id"] for found in pages for job in found] == made[::-1]


def test_pages_stay_right_while_jobs_are_added(api_client: TestClient, job_body: dict[str, Any]) -> None:
    made = [create(api_client, job_body) for _ in range(4)]
    first = page(api_client, JOBS, limit=2)
    create(api_client, job_body)
    second = page(api_client, JOBS, limit=2, after=first["last_id"])
    assert [job["id"] for job in first["data"] + second["data"]] == made[::-1]


def test_empty_list_has_no_ids(api_client: TestClient) -> None:
    assert page(api_client, JOBS) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize("limit", [0, 101, "ten"])
def test_limit_is_bounded(api_client: TestClient, job_body: dict[str, Any], limit: Any) -> None:
    job_id = create(api_client, job_body)
    for path in (JOBS, f"{JOBS}/{job_id}/events", f"{JOBS}/{job_id}/checkpoints"):
        answer = api_client.get(path, params={"limit": limit})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "limit"


def test_metadata_pairs_must_all_match(api_client: TestClient, job_body: dict[str, Any]) -> None:
    both = create(api_client, job_body, metadata={"team": "red", "n[1]": "a&b=ü"})
    one = create(api_client, job_body, metadata={"team": "red"})
    none = create(api_client, job_body)

    def found(**query: str) -> list[str]:
        return [job["id"] for job in page(api_client, JOBS, **query)["data"]]

    assert found(**{"metadata[team]": "red"}) == [one, both]
    assert found(**{"metadata[team]": "red", "metadata[n[1]]": "a&b=ü"}) == [both]
    assert found(**{"metadata[team]": "re"}) == []
    assert found(**{"metadata[]": "red"}) == []
    assert found(metadata="null") == [none]


def test_pages_keep_their_filter(api_client: TestClient, job_body: dict[str, Any]) -> None:
    made = [create(api_client, job_body, metadata={"team": team}) for team in ("red", "blue", "red", "red")]
    first = page(api_client, JOBS, limit=2, **{"metadata[team]": "red"})
    second = page(api_client, JOBS, limit=2, after=first["last_id"], **{"metadata[team]": "red"})
    assert [job["id"] for job in first["data"] + second["data"]] == [made[3], made[2], made[0]]
    assert (first["has_more"], second["has_more"]) == (True, False)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=failed", "status"),
        ("metadata=red", "metadata"),
        ("metadata[a=b", "metadata[a"),
        ("metadata=null&metadata[a]=b", "metadata"),
        ("metadata[a]=b&metadata[a]=c", "metadata"),
        ("metadata[a]=%00", "metadata"),
        ("metadata[%00]=b", "metadata"),
    ],
)
def test_query_that_is_not_understood_is_refused(api_client: TestClient, query: str, param: str) -> None:
    answer = api_client.get(f"{JOBS}?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_events_come_newest_first_over_three_pages(
    api_client: TestClient, job_body: dict[str, Any], finish: Any
) -> None:
    job_id = create(api_client, job_body)
    finish(job_id)
    path = f"{JOBS}/{job_id}/events"
    pages = walk(api_client, path, limit=4)
    events = [event for found in pages for event in found]
    assert len(pages) >= 3
    assert events[-1]["message"] == f"Created fine-tuning job: {job_id}"
    assert events[0]["message"].startswith("The job has successfully completed: ft:")
    assert {event["object"] for event in events} == {"fine_tuning.job.event"}
    losses = [event["data"]["train_loss"] for event in events if event["type"] == "metrics"]
    assert losses == [1.0, 1.5, 3.0]


def test_events_keep_their_ids_and_places_while_others_are_added(
    api_client: TestClient, session_factory: SessionFactory, job_body: dict[str, Any]
) -> None:
    job_id = create(api_client, job_body)
    path = f"{JOBS}/{job_id}/events"

    def add(message: str) -> None:
        with transaction(session_factory) as session:
            lifecycle.append_event(session, job_id, attempt=0, level="info", message=message)

    add("one")
    before = page(api_client, path)["data"]
    newest = before[0]["id"]
    add("two")
    after = page(api_client, path)["data"]
    assert after[1:] == before
    assert page(api_client, path, after=newest)["data"] == before[1:]
    assert len({event["id"] for event in after}) == len(after) == 3


def test_checkpoints_come_highest_step_first(
    api_client: TestClient, session: Session, job_body: dict[str, Any], finish: Any
) -> None:
    job_id = create(api_client, job_body, suffix="mine")
    assert page(api_client, f"{JOBS}/{job_id}/checkpoints")["data"] == []
    finish(job_id, steps=(9, 10, 100))
    pages = walk(api_client, f"{JOBS}/{job_id}/checkpoints", limit=1)
    found = [checkpoint for each in pages for checkpoint in each]
    assert [checkpoint["step_number"] for checkpoint in found] == [100, 10, 9]
    model = session.scalars(select(FineTuningJob.fine_tuned_model)).one()
    assert found[0]["fine_tuned_model_checkpoint"] == f"{model}:ckpt-step-100"
    assert found[0]["fine_tuning_job_id"] == job_id
    assert found[0]["metrics"] == {
        "step": 100,
        "train_loss": 0.03,
        "train_mean_token_accuracy": 0.5,
        "valid_loss": None,
        "valid_mean_token_accuracy": None,
        "full_valid_loss": None,
        "full_valid_mean_token_accuracy": None,
    }


@pytest.mark.parametrize("kind", ["events", "checkpoints"])
def test_place_in_another_list_is_refused(
    api_client: TestClient, job_body: dict[str, Any], finish: Any, kind: str
) -> None:
    mine, other = create(api_client, job_body), create(api_client, job_body)
    finish(other)
    for after in (page(api_client, f"{JOBS}/{other}/{kind}")["first_id"], "ftevent-none"):
        answer = api_client.get(f"{JOBS}/{mine}/{kind}", params={"after": after})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "after"


def test_artifacts_appear_with_success_and_go_with_the_adapter(
    api_client: TestClient, session: Session, job_body: dict[str, Any], finish: Any
) -> None:
    job_id = create(api_client, job_body)
    path = f"{JOBS}/{job_id}/artifacts"
    assert page(api_client, path)["data"] == []
    finish(job_id)
    listed = page(api_client, path)["data"]
    assert {artifact["name"]: artifact["bytes"] for artifact in listed} == {
        name: len(data) for name, data in ADAPTER_FILES.items()
    }
    for artifact in listed:
        assert api_client.get(artifact["url"]).content == ADAPTER_FILES[artifact["name"]]
    adapter_id = session.scalars(select(Adapter.id)).one()
    assert api_client.delete(f"/v1/adapters/{adapter_id}").status_code == 200
    assert page(api_client, path)["data"] == []


def test_lists_show_one_project(
    api_client: TestClient,
    other_client: TestClient,
    job_body: dict[str, Any],
    make_file: MakeFile,
    other_tenant: Tenant,
) -> None:
    mine = create(api_client, job_body)
    theirs = create(other_client, {**job_body, "training_file": make_file(project_id=other_tenant.project_id)})
    assert [job["id"] for job in page(api_client, JOBS)["data"]] == [mine]
    assert [job["id"] for job in page(other_client, JOBS)["data"]] == [theirs]
