"""Finished adapters: list, look at, download whole and in parts, delete; one project never sees another's."""

import hashlib
import io
import tarfile
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.db.models import Artifact
from tests.fixtures.fine_tuning import ADAPTER_FILES

JOBS = "/v1/fine_tuning/jobs"
ADAPTERS = "/v1/adapters"


@pytest.fixture
def job(api_client: TestClient, job_body: dict[str, Any], finish: Any) -> dict[str, Any]:
    job_id = api_client.post(JOBS, json=job_body).json()["id"]
    finish(job_id)
    found: dict[str, Any] = api_client.get(f"{JOBS}/{job_id}").json()
    return found


@pytest.fixture
def adapter(api_client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    [found] = api_client.get(ADAPTERS).json()["data"]
    assert found["fine_tuning_job_id"] == job["id"]
    shown: dict[str, Any] = found
    return shown


def test_adapter_says_what_it_is(api_client: TestClient, job: dict[str, Any], adapter: dict[str, Any]) -> None:
    assert adapter["object"] == "adapter"
    assert adapter["id"].startswith("adapter-")
    assert adapter["model"] == job["fine_tuned_model"]
    assert (adapter["base_model"], adapter["base_model_digest"]) == (job["model"], "d" * 64)
    assert adapter["bytes"] == sum(map(len, ADAPTER_FILES.values()))
    assert adapter["metrics"] == {"train_loss": 1.0}
    assert api_client.get(f"{ADAPTERS}/{adapter['id']}").json() == adapter


def test_adapters_come_newest_first_over_three_pages(
    api_client: TestClient, job_body: dict[str, Any], finish: Any
) -> None:
    made = [api_client.post(JOBS, json=job_body).json()["id"] for _ in range(5)]
    for job_id in made:
        finish(job_id, steps=())
    seen: list[str] = []
    page: dict[str, Any] = {"has_more": True, "last_id": None}
    sizes = []
    while page["has_more"]:
        query = {"limit": 2} | ({"after": page["last_id"]} if page["last_id"] else {})
        page = api_client.get(ADAPTERS, params=query).json()
        sizes.append(len(page["data"]))
        seen += [adapter["fine_tuning_job_id"] for adapter in page["data"]]
    assert (sizes, seen) == ([2, 2, 1], made[::-1])


def test_download_is_the_tar_of_the_second_result_file(
    api_client: TestClient, job: dict[str, Any], adapter: dict[str, Any]
) -> None:
    answer = api_client.get(f"{ADAPTERS}/{adapter['id']}/download")
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["content-disposition"] == 'attachment; filename="adapter.tar"'
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert list(members) == sorted(ADAPTER_FILES)
        for name, data in ADAPTER_FILES.items():
            content = archive.extractfile(members[name])
            assert content is not None
            assert content.read() == data
    assert api_client.get(f"/v1/files/{job['result_files'][1]}/content").content == answer.content


def test_download_can_be_resumed_and_skipped(api_client: TestClient, adapter: dict[str, Any]) -> None:
    path = f"{ADAPTERS}/{adapter['id']}/download"
    whole = api_client.get(path)
    size, tag = len(whole.content), whole.headers["etag"]
    rest = api_client.get(path, headers={"range": "bytes=100-", "if-range": tag})
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes 100-{size - 1}/{size}"
    assert rest.content == whole.content[100:]
    assert api_client.get(path, headers={"range": "bytes=-5"}).content == whole.content[-5:]
    assert api_client.get(path, headers={"range": f"bytes={size}-"}).status_code == 416
    unchanged = api_client.get(path, headers={"if-none-match": tag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    head = api_client.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))


def test_single_files_are_served_by_name(api_client: TestClient, adapter: dict[str, Any]) -> None:
    for name, data in ADAPTER_FILES.items():
        answer = api_client.get(f"{ADAPTERS}/{adapter['id']}/files/{name}")
        assert answer.content == data
        assert answer.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'


@pytest.mark.parametrize("name", ["adapter.bin", "..%2fmetrics.csv", "%2e%2e", "adapter.tar", "METRICS.CSV"])
def test_other_names_are_unknown(api_client: TestClient, adapter: dict[str, Any], name: str) -> None:
    answer = api_client.get(f"{ADAPTERS}/{adapter['id']}/files/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("by", ["adapter", "model"])
def test_deleted_adapter_is_gone_with_its_files(
    api_client: TestClient, session: Session, job: dict[str, Any], adapter: dict[str, Any], by: str
) -> None:
    path = f"{ADAPTERS}/{adapter['id']}"
    route = {"adapter": path, "model": f"/v1/models/{job['fine_tuned_model']}"}[by]
    assert api_client.delete(route).json()["deleted"] is True
    for gone in (path, f"{path}/download", f"{path}/files/metrics.csv", f"/v1/files/{job['result_files'][1]}"):
        assert api_client.get(gone).status_code == 404, gone
    assert api_client.delete(route).status_code == 404
    assert api_client.get(ADAPTERS).json()["data"] == []
    assert job["fine_tuned_model"] not in [model["id"] for model in api_client.get("/v1/models").json()["data"]]
    assert api_client.get(f"{JOBS}/{job['id']}").json() == job
    assert api_client.get(f"/v1/files/{job['result_files'][0]}").status_code == 200, "the metrics stay"
    assert session.scalars(select(Artifact).where(Artifact.owner_id == adapter["id"])).all() == []


def test_tar_deleted_as_a_file_is_missed_clearly(
    api_client: TestClient, job: dict[str, Any], adapter: dict[str, Any]
) -> None:
    assert api_client.delete(f"/v1/files/{job['result_files'][1]}").status_code == 200
    answer = api_client.get(f"{ADAPTERS}/{adapter['id']}/download")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "archive_deleted"
    assert api_client.get(f"{ADAPTERS}/{adapter['id']}/files/metrics.csv").status_code == 200


@pytest.mark.parametrize(
    ("verb", "path"),
    [("GET", ""), ("DELETE", ""), ("GET", "/download"), ("HEAD", "/download"), ("GET", "/files/metrics.csv")],
)
def test_foreign_adapter_is_answered_like_an_unknown_one(
    api_client: TestClient, other_client: TestClient, adapter: dict[str, Any], verb: str, path: str
) -> None:
    foreign = other_client.request(verb, f"{ADAPTERS}/{adapter['id']}{path}")
    unknown = other_client.request(verb, f"{ADAPTERS}/adapter-none{path}")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text == unknown.text.replace("adapter-none", adapter["id"])
    assert other_client.get(ADAPTERS).json()["data"] == []
    assert api_client.get(f"{ADAPTERS}/{adapter['id']}").status_code == 200
