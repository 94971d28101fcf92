"""Previews over HTTP: a worker in this process with a scripted preview process, real Postgres and broker."""

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.db.models import SaliencyPreview
from app.db.session import SessionFactory, transaction
from app.main import create_app
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import BASE_MODEL, NLFT_ROW, add_base_model, client_beside
from tests.sdk.live_service import serve
from tests.worker.previews.scripts import add_preview, scripted_context, scripted_row, working
from tests.worker.scripted_jobs import add_job, add_project, quick_settings, read_job, wait_until
from worker.context import WorkerContext

ROUTE = "/v1/fine_tuning/saliency"


@pytest.fixture
def wait_seconds() -> float:
    """How long a client waits at most; tests of what happens then override it."""
    return 60.0


@pytest.fixture
def settings(
    database_url: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory, wait_seconds: float
) -> Settings:
    root = tmp_path_factory.mktemp("previews")
    return quick_settings(database_url, broker_url, root, preview_wait_seconds=wait_seconds, max_preview_examples=3)


@pytest.fixture(autouse=True)
def base_model(session_factory: SessionFactory) -> None:
    with transaction(session_factory) as session:
        add_base_model(session)


@pytest.fixture
def worker(settings: Settings, api_app: FastAPI) -> Iterator[WorkerContext]:
    with working(scripted_context(settings)) as context:
        yield context


def body(*rows: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {"model": BASE_MODEL, "examples": list(rows) or [scripted_row()], **changes}


def error_of(client: TestClient, content: dict[str, Any], status: int) -> dict[str, Any]:
    answer = client.post(ROUTE, json=content)
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def count_previews(factory: SessionFactory) -> int:
    with factory() as session:
        return session.scalars(select(func.count()).select_from(SaliencyPreview)).one()


def test_an_answer_is_what_the_worker_wrote_and_nothing_stays(
    api_client: TestClient, worker: WorkerContext, session_factory: SessionFactory
) -> None:
    first = api_client.post(ROUTE, json=body(scripted_row(), scripted_row()))
    assert (first.status_code, first.json()["rows"]) == (200, 2)
    assert first.headers["content-type"] == "application/json"
    assert api_client.post(ROUTE, json=body()).json()["pid"] == first.json()["pid"]
    assert count_previews(session_factory) == 0


@pytest.mark.parametrize("wait_seconds", [1.0])
def test_without_a_worker_the_answer_says_so_in_time(api_client: TestClient, session_factory: SessionFactory) -> None:
    answer = api_client.post(ROUTE, json=body())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
    assert (answer.headers["x-should-retry"], answer.headers["retry-after"]) == ("false", "30")
    assert count_previews(session_factory) == 0


@pytest.mark.parametrize("wait_seconds", [1.0])
def test_behind_a_running_job_the_answer_says_that_workers_are_busy(
    api_client: TestClient, worker: WorkerContext, session_factory: SessionFactory
) -> None:
    job = add_job(session_factory, add_project(session_factory, worker.store), steps=100, step_seconds=0.1)
    wait_until(lambda: read_job(session_factory, job).status == "running")
    error = error_of(api_client, body(), 503)
    assert error["code"] == "workers_busy"
    assert "1 job(s) are being trained" in error["message"]
    assert count_previews(session_factory) == 0


def test_the_warm_process_makes_room_for_a_trainer_and_comes_back(
    api_client: TestClient, worker: WorkerContext, session_factory: SessionFactory
) -> None:
    pid = api_client.post(ROUTE, json=body()).json()["pid"]
    job = add_job(session_factory, add_project(session_factory, worker.store), steps=1)
    wait_until(lambda: read_job(session_factory, job).status == "succeeded")
    assert api_client.post(ROUTE, json=body()).json()["pid"] != pid


def test_a_client_that_leaves_ends_the_work(
    api_app: FastAPI, tenant: Tenant, worker: WorkerContext, session_factory: SessionFactory
) -> None:
    with serve(api_app) as url, httpx.Client(base_url=url.removesuffix("/v1"), headers=tenant.headers) as client:
        pid = client.post(ROUTE, json=body(), timeout=30).json()["pid"]
        with pytest.raises(httpx.ReadTimeout):
            client.post(ROUTE, json=body(scripted_row(seconds=60)), timeout=1)
        wait_until(lambda: count_previews(session_factory) == 0, seconds=5, what="the preview is gone")
        # The same process, at once: it was stopped, not awaited, and not killed.
        assert client.post(ROUTE, json=body(), timeout=5).json()["pid"] == pid


def test_a_client_that_leaves_the_queue_is_never_served(
    api_app: FastAPI, tenant: Tenant, session_factory: SessionFactory
) -> None:
    with serve(api_app) as url, httpx.Client(base_url=url.removesuffix("/v1"), headers=tenant.headers) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(ROUTE, json=body(), timeout=0.3)
        wait_until(lambda: count_previews(session_factory) == 0, seconds=5)


def test_a_preview_whose_api_process_died_is_given_up(
    worker: WorkerContext, session_factory: SessionFactory, tenant: Tenant, api_client: TestClient
) -> None:
    add_preview(session_factory, tenant.project_id, wanted_seconds=0.5, seconds=60)
    assert api_client.post(ROUTE, json=body()).status_code == 200


@pytest.mark.parametrize("script", [{"die": 1}, {"die": -9}])
def test_a_process_that_keeps_dying_is_an_answer_too(
    api_client: TestClient, worker: WorkerContext, session_factory: SessionFactory, script: dict[str, Any]
) -> None:
    assert error_of(api_client, body(scripted_row(**script)), 503)["code"] == "preview_lost"
    assert count_previews(session_factory) == 0
    assert api_client.post(ROUTE, json=body()).status_code == 200


@pytest.mark.parametrize("wait_seconds", [1.0])
def test_an_open_preview_counts_against_its_project_alone(
    settings: Settings, session_factory: SessionFactory, tenant: Tenant, other_tenant: Tenant
) -> None:
    app = create_app(settings.model_copy(update={"max_open_previews": 1}), reconcile=False)
    add_preview(session_factory, tenant.project_id)
    with TestClient(app, headers=tenant.headers) as client:
        assert error_of(client, body(), 429)["code"] == "too_many_previews"
        other = TestClient(app, headers=other_tenant.headers)
        assert error_of(other, body(), 503)["code"] == "no_worker"


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"examples": []}, "examples", "invalid_value"),
        ({"examples": [NLFT_ROW] * 4}, "examples", "too_many_examples"),
        ({"hyperparameters": {"reference_treshold": 0.5}}, "hyperparameters.reference_treshold", "unknown_parameter"),
        ({"hyperparameters": {"reference_threshold": 2}}, "hyperparameters.reference_threshold", "invalid_value"),
        ({"method": "magic"}, "method", "unknown_method"),
        ({"method": "supervised", "prompts": "default"}, "prompts", "unknown_parameter"),
        ({"prompts": "default", "hyperparameters": {"prompts": "paper"}}, "prompts", "invalid_value"),
        ({"exmples": []}, "exmples", "unknown_parameter"),
        ({"examples": [NLFT_ROW, {**NLFT_ROW, "response": None}]}, "examples[1].response", "invalid_examples"),
        ({"examples": [{**NLFT_ROW, "answer": "4"}]}, "examples[0].answer", "invalid_examples"),
        ({"examples": [{**NLFT_ROW, "messages": []}]}, "examples[0].messages", "invalid_examples"),
        ({"examples": [{"prompt": "a", "completion": "b"}]}, "examples[0]", "invalid_examples"),
        ({"grader": {"type": "score_model", "name": "n", "model": "m", "input": []}}, None, "invalid_value"),
    ],
)
def test_what_is_wrong_is_named(
    api_client: TestClient, changes: dict[str, Any], param: str | None, code: str, session_factory: SessionFactory
) -> None:
    error = error_of(api_client, body(NLFT_ROW) | changes, 400)
    assert error["code"] == code
    assert param is None or error["param"] == param
    assert count_previews(session_factory) == 0


def test_unknown_and_foreign_models_are_not_found(api_client: TestClient) -> None:
    for name in ("nothing", "ft:tiny-chat:second::12345678"):
        assert error_of(api_client, body(model=name), 404)["code"] == "model_not_found"


def test_a_worker_s_refusal_is_the_client_s_error(api_client: TestClient, worker: WorkerContext) -> None:
    error = error_of(api_client, body(scripted_row(refuse="invalid_hyperparameters")), 400)
    assert (error["message"], error["param"]) == ("As scripted.", "examples")
    assert error_of(api_client, body(scripted_row(refuse="preview_timeout")), 503)["code"] == "preview_timeout"
    assert error_of(api_client, body(scripted_row(refuse="invalid_base_model")), 500)["type"] == "server_error"


def test_many_clients_are_answered_one_after_the_other(
    api_client: TestClient, settings: Settings, worker: WorkerContext, session_factory: SessionFactory
) -> None:
    answers: list[int] = []

    def ask() -> None:
        answers.append(client_beside(api_client).post(ROUTE, json=body(scripted_row(seconds=0.05))).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 6
    assert count_previews(session_factory) == 0


def test_a_draining_worker_hands_its_preview_to_another(
    api_client: TestClient, settings: Settings, worker: WorkerContext
) -> None:
    answers: list[int] = []

    def ask() -> None:
        answers.append(client_beside(api_client).post(ROUTE, json=body(scripted_row(seconds=1.5))).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: list(settings.workspaces.glob("preview-*")) != [])
    worker.draining.set()
    with working(scripted_context(settings)):
        thread.join(20)
    assert answers == [200]


def test_rows_arrive_graded(api_client: TestClient, session_factory: SessionFactory, settings: Settings) -> None:
    rows = [NLFT_ROW, {**NLFT_ROW, "response": "5"}, {**NLFT_ROW, "response": "6", "judgment": "It is 4."}]
    thread = threading.Thread(target=client_beside(api_client).post, args=(ROUTE,), kwargs={"json": body(*rows)})
    thread.start()
    wait_until(lambda: count_previews(session_factory) == 1)
    with transaction(session_factory) as session:
        preview = session.scalars(select(SaliencyPreview)).one()
        request = json.loads(preview.request)
        session.delete(preview)
    thread.join(10)
    assert [json.loads(line)["correct"] for line in request["rows"].splitlines()] == [True, False, False]
    assert request["owner"] == preview.project_id
