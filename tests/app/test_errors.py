"""Every failure is the four-key envelope, whatever it is that failed."""

import json
from collections.abc import Iterator

import openai
import pytest
from fastapi import FastAPI
from obstore.exceptions import GenericError
from pydantic import SecretStr
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.main import create_app
from tests.fixtures.api import Tenant

KEYS = ["message", "type", "param", "code"]


@pytest.mark.parametrize(
    ("request_line", "status", "kind", "code"),
    [
        ("GET /v1/nothing", 404, "not_found_error", "unknown_url"),
        ("GET /", 404, "not_found_error", "unknown_url"),
        ("PATCH /v1/files", 405, "invalid_request_error", "method_not_allowed"),
        ("GET /v1/files/file-unknown", 404, "not_found_error", "not_found"),
        ("GET /v1/models/unknown", 404, "not_found_error", "model_not_found"),
        ("GET /v1/files?limit=0", 400, "invalid_request_error", "invalid_value"),
        ("GET /v1/files?limit=10001", 400, "invalid_request_error", "invalid_value"),
        ("GET /v1/files?order=up", 400, "invalid_request_error", "invalid_value"),
        ("GET /v1/files?ordre=asc", 400, "invalid_request_error", "unknown_parameter"),
        ("GET /docs", 404, "not_found_error", "unknown_url"),
        ("GET /openapi.json", 404, "not_found_error", "unknown_url"),
    ],
)
def test_a_failure_is_an_envelope(api_client: TestClient, request_line: str, status: int, kind: str, code: str) -> None:
    answer = api_client.request(*request_line.split(" "))
    error = answer.json()["error"]
    assert answer.status_code == status
    assert list(error) == KEYS
    assert (error["type"], error["code"]) == (kind, code)
    assert answer.headers["x-request-id"].startswith("req_")


def test_an_unknown_query_name_comes_with_the_nearest_one(api_client: TestClient) -> None:
    error = api_client.get("/v1/files?ordre=asc").json()["error"]
    assert error["message"] == "Unknown parameter: 'ordre'. Did you mean 'order'?"
    assert error["param"] == "ordre"


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"null", b'"text"', b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_400(api_client: TestClient, body: bytes) -> None:
    answer = api_client.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert list(answer.json()["error"]) == KEYS


def test_a_json_body_sent_as_something_else_is_400(api_client: TestClient) -> None:
    answer = api_client.post("/v1/fine_tuning/jobs", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


def test_a_stray_exception_is_a_plain_500_and_is_logged(
    api_app: FastAPI, api_client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("postgresql://user:hunter2@host and other internals")

    api_app.add_api_route("/fail", fail)
    answer = api_client.get("/fail", headers={"x-request-id": "mine-1"})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert list(error) == KEYS
    assert error["type"] == "server_error"
    assert "internals" not in answer.text
    assert "mine-1" in error["message"]
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "unhandled" in line]
    assert logged[0]["request_id"] == "mine-1"
    assert "RuntimeError" in logged[0]["exception"]
    assert "hunter2" not in logged[0]["exception"]


def test_an_exception_in_the_middle_of_an_answer_breaks_the_connection(api_app: FastAPI, tenant: Tenant) -> None:
    def fail_late() -> StreamingResponse:
        def chunks() -> object:
            yield b"first"
            raise RuntimeError

        return StreamingResponse(chunks())  # type: ignore[arg-type]  # the generator's type is of no interest

    api_app.add_api_route("/fail", fail_late)
    with TestClient(api_app) as client, pytest.raises(RuntimeError):
        client.get("/fail")


def test_a_storage_failure_is_503(api_app: FastAPI, api_client: TestClient) -> None:
    def fail() -> None:
        raise GenericError("bucket is away")

    api_app.add_api_route("/fail", fail)
    answer = api_client.get("/fail")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert "bucket" not in answer.text


@pytest.fixture
def stranded_client(settings: Settings, tenant: Tenant) -> Iterator[TestClient]:
    away = SecretStr("postgresql://nobody@127.0.0.1:1/none")
    app = create_app(settings.model_copy(update={"database_url": away}), reconcile=False)
    with TestClient(app, headers=tenant.headers, raise_server_exceptions=False) as client:
        yield client


def test_a_missing_database_is_503_with_a_time_to_retry(stranded_client: TestClient) -> None:
    answer = stranded_client.get("/v1/models")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert list(answer.json()["error"]) == KEYS
    assert "127.0.0.1" not in answer.text


def test_a_missing_database_is_not_ready_but_alive(stranded_client: TestClient) -> None:
    ready = stranded_client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["checks"]["database"] == "unavailable"
    assert stranded_client.get("/livez").status_code == 200


def test_the_sdk_raises_its_typed_errors(api_client: TestClient, tenant: Tenant) -> None:
    client = openai.OpenAI(base_url="http://testserver/v1", api_key=tenant.key, http_client=api_client, max_retries=0)
    with pytest.raises(openai.NotFoundError) as missing:
        client.files.retrieve("file-unknown")
    assert missing.value.code == "not_found"
    assert missing.value.request_id is not None
    with pytest.raises(openai.BadRequestError) as bad:
        client.files.list(limit=0)
    assert bad.value.param == "limit"
