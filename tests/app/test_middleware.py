"""Request ids, headers, and the guard on request bodies, driven over plain ASGI where timing matters."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import Message

from app.core.settings import Settings
from tests.app.asgi import call, chunk, status_of
from tests.fixtures.api import Tenant


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_request_bytes": 1000, "max_upload_bytes": 20_000, "body_idle_seconds": 0.2})


def test_every_answer_carries_the_ids_and_versions(api_client: TestClient) -> None:
    for path in ("/v1/models", "/v1/nothing", "/livez"):
        headers = api_client.get(path).headers
        assert headers["x-request-id"].startswith("req_")
        assert headers["openai-version"] == "2020-10-01"
        assert int(headers["openai-processing-ms"]) >= 0
        assert headers["x-content-type-options"] == "nosniff"


def test_two_requests_have_two_ids(api_client: TestClient) -> None:
    assert len({api_client.get("/livez").headers["x-request-id"] for _ in range(5)}) == 5


def test_a_callers_request_id_is_kept(api_client: TestClient) -> None:
    assert api_client.get("/livez", headers={"x-request-id": "trace-42"}).headers["x-request-id"] == "trace-42"


@pytest.mark.parametrize("forged", ["", "two words", "line\tbreak", "x" * 129, '{"json": 1}'])
def test_a_request_id_that_could_upset_a_log_is_replaced(api_client: TestClient, forged: str) -> None:
    assert api_client.get("/livez", headers={"x-request-id": forged}).headers["x-request-id"].startswith("req_")


def test_a_declared_body_above_the_limit_is_413_before_it_is_read(api_client: TestClient) -> None:
    answer = api_client.post("/v1/fine_tuning/jobs", content=b"x" * 1001)
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    assert answer.json()["error"]["code"] == "payload_too_large"
    assert "1000 bytes" in answer.json()["error"]["message"]


def test_the_rest_of_a_refused_body_is_drained_so_that_the_answer_arrives(api_app: FastAPI, tenant: Tenant) -> None:
    read: list[bytes] = []

    def body() -> Iterable[Message]:
        for part in (b"a" * 4096, b"b" * 4096):
            read.append(part)
            yield chunk(part)
        yield chunk(b"", more=False)

    sent = call(api_app, tenant, "/v1/fine_tuning/jobs", body(), content_length="8192")
    assert status_of(sent) == 413
    assert len(read) == 2


def test_a_body_that_grows_above_the_limit_is_413(api_app: FastAPI, tenant: Tenant) -> None:
    sent = call(api_app, tenant, "/v1/fine_tuning/jobs", [chunk(b"x" * 600)] * 3, transfer_encoding="chunked")
    assert status_of(sent) == 413


def test_a_lie_about_the_length_does_not_help(api_app: FastAPI, tenant: Tenant) -> None:
    sent = call(api_app, tenant, "/v1/fine_tuning/jobs", [chunk(b"x" * 600)] * 3, content_length="10")
    assert status_of(sent) == 413


def test_a_body_that_stops_arriving_is_408(api_app: FastAPI, tenant: Tenant) -> None:
    sent = call(api_app, tenant, "/v1/fine_tuning/jobs", [chunk(b"{")], content_length="100")
    assert status_of(sent) == 408


def test_an_upload_that_stops_arriving_is_408_and_leaves_nothing(
    api_app: FastAPI, tenant: Tenant, settings: Settings
) -> None:
    start = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 5000
    kind = "multipart/form-data; boundary=b"
    sent = call(api_app, tenant, "/v1/files", [chunk(start)], content_length="9000", content_type=kind)
    assert status_of(sent) == 408
    assert list(Path(settings.storage_url.removeprefix("file://")).rglob("nlft-blob-*")) == []


def test_a_trickle_below_the_minimum_rate_is_408(api_app: FastAPI, tenant: Tenant) -> None:
    def trickle() -> Iterable[Message]:
        while True:
            yield chunk(b"")

    sent = call(api_app, tenant, "/v1/fine_tuning/jobs", trickle(), transfer_encoding="chunked")
    assert status_of(sent) == 408


def test_the_upload_route_has_its_own_limit(api_client: TestClient) -> None:
    form = {"purpose": "user_data"}
    assert api_client.post("/v1/files", data=form, files={"file": ("a", b"x" * 20_000)}).status_code == 200
    too_large = api_client.post("/v1/files", data=form, files={"file": ("a", b"x" * 20_001)})
    assert too_large.status_code == 413
    assert too_large.json()["error"]["param"] == "file"
    assert api_client.post("/v1/files", data=form, files={"file": ("a", b"x" * 200_000)}).status_code == 413


def test_one_access_line_names_request_key_and_project(
    api_client: TestClient, tenant: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    api_client.get("/v1/models", headers={"x-request-id": "trace-43"})
    api_client.get("/livez")
    lines = [line for line in capsys.readouterr().err.splitlines() if '"app.middleware"' in line]
    assert len(lines) == 1
    assert "trace-43" in lines[0]
    assert tenant.project_id in lines[0]
