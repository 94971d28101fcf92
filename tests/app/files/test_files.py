"""Listing, reading and deleting files; the wall between projects."""

from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.db.models import BaseModel, File, FileHold, FineTuningJob
from tests.fixtures.api import Tenant


def upload(client: TestClient, content: bytes = b"some content", purpose: str = "user_data") -> str:
    answer = client.post("/v1/files", files={"file": ("notes.txt", content)}, data={"purpose": purpose})
    return str(answer.json()["id"])


def ids_of(answer: Any) -> list[str]:
    return [file["id"] for file in answer.json()["data"]]


def hold(session: Session, tenant: Tenant, file_id: str) -> None:
    """Let an unfinished job need the file."""
    session.add(BaseModel(id="b", path="/b", digest="d", architecture="a", parameters=1, context_length=1, details={}))
    session.flush()
    session.add(
        FineTuningJob(
            id="ftjob-x",
            project_id=tenant.project_id,
            model="b",
            base_model_id="b",
            training_file_id=file_id,
            seed=0,
            method={},
            spec={},
            request_digest="r",
        )
    )
    session.flush()
    session.add(FileHold(job_id="ftjob-x", file_id=file_id))
    session.commit()


def test_files_are_listed_newest_first_or_oldest_first(api_client: TestClient) -> None:
    made = [upload(api_client) for _ in range(3)]
    page = api_client.get("/v1/files")
    assert ids_of(page) == made[::-1]
    assert ids_of(api_client.get("/v1/files?order=asc")) == made
    assert page.json()["first_id"] == made[2]
    assert page.json()["last_id"] == made[0]
    assert page.json()["has_more"] is False


def test_an_empty_list_has_no_ids(api_client: TestClient) -> None:
    assert api_client.get("/v1/files").json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_follow_each_other_without_gap_or_repetition(api_client: TestClient, order: str) -> None:
    made = [upload(api_client) for _ in range(5)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2, "order": order}
    while True:
        page = api_client.get("/v1/files", params=query)
        seen += ids_of(page)
        if not page.json()["has_more"]:
            break
        query["after"] = page.json()["last_id"]
    assert seen == (made if order == "asc" else made[::-1])


def test_a_page_stays_right_when_its_anchor_is_deleted(api_client: TestClient) -> None:
    made = [upload(api_client) for _ in range(3)]
    api_client.delete(f"/v1/files/{made[1]}")
    assert ids_of(api_client.get("/v1/files", params={"after": made[1]})) == [made[0]]


def test_the_sdk_walks_every_page(api_client: TestClient, tenant: Tenant) -> None:
    made = [upload(api_client) for _ in range(5)]
    client = openai.OpenAI(base_url="http://testserver/v1", api_key=tenant.key, http_client=api_client)
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]


def test_a_list_can_be_limited_to_a_purpose(api_client: TestClient) -> None:
    wanted = upload(api_client, purpose="batch")
    upload(api_client)
    assert ids_of(api_client.get("/v1/files?purpose=batch")) == [wanted]


def test_a_list_counts_warnings_and_a_file_shows_them(api_client: TestClient) -> None:
    row = b'{"prompt": "a", "completion": "b"}\n'
    file_id = upload(api_client, row * 3, "fine-tune")
    (listed,) = api_client.get("/v1/files").json()["data"]
    assert listed["report"]["total_warnings"] == 2
    assert "warnings" not in listed["report"]
    assert len(api_client.get(f"/v1/files/{file_id}").json()["report"]["warnings"]) == 2


def test_a_deleted_file_is_gone(api_client: TestClient) -> None:
    file_id = upload(api_client)
    assert api_client.delete(f"/v1/files/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}
    for method, path in [("GET", ""), ("GET", "/content"), ("DELETE", "")]:
        assert api_client.request(method, f"/v1/files/{file_id}{path}").status_code == 404
    assert ids_of(api_client.get("/v1/files")) == []


def test_a_file_that_an_unfinished_job_needs_is_409_and_stays(
    api_client: TestClient, session: Session, tenant: Tenant
) -> None:
    file_id = upload(api_client)
    hold(session, tenant, file_id)
    refused = api_client.delete(f"/v1/files/{file_id}")
    assert refused.status_code == 409
    assert refused.headers["x-should-retry"] == "false"
    assert refused.json()["error"]["code"] == "file_in_use"
    assert api_client.get(f"/v1/files/{file_id}").status_code == 200


def test_an_expired_file_is_gone_before_it_is_swept(api_client: TestClient, session: Session) -> None:
    file_id = upload(api_client)
    session.execute(update(File).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    session.commit()
    assert api_client.get(f"/v1/files/{file_id}").status_code == 404
    assert api_client.get(f"/v1/files/{file_id}/content").status_code == 404
    assert api_client.delete(f"/v1/files/{file_id}").status_code == 404
    assert ids_of(api_client.get("/v1/files")) == []


@pytest.mark.parametrize("request_line", ["GET ", "HEAD /content", "GET /content", "DELETE "])
def test_a_foreign_file_answers_exactly_like_an_unknown_one(
    api_client: TestClient, other_client: TestClient, request_line: str
) -> None:
    method, path = request_line.split(" ")
    file_id = upload(api_client)
    foreign = other_client.request(method, f"/v1/files/{file_id}{path}")
    unknown = other_client.request(method, f"/v1/files/file-unknown{path}")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace(file_id, "file-unknown") == unknown.text
    assert api_client.get(f"/v1/files/{file_id}").status_code == 200


def test_a_project_lists_its_own_files_only(api_client: TestClient, other_client: TestClient) -> None:
    mine, theirs = upload(api_client), upload(other_client)
    assert ids_of(api_client.get("/v1/files")) == [mine]
    assert ids_of(other_client.get("/v1/files")) == [theirs]
    assert ids_of(other_client.get("/v1/files", params={"after": mine})) == []
