"""Saliency end to end: a real preview process and a real job on a random model, over HTTP."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.db.session import SessionFactory, transaction
from app.storage import BlobStore
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import BASE_MODEL, add_base_model, add_file
from tests.fixtures.tiny_models import TinyModel, reference_to
from tests.training.builders import sum_rows
from tests.worker.previews.scripts import working
from tests.worker.scripted_jobs import quick_settings, wait_until
from worker.context import WorkerContext

ROUTE = "/v1/fine_tuning/saliency"
ROWS = sum_rows(6)


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    changes = {"preview_wait_seconds": 60.0, "max_preview_tokens": 2000, "stall_seconds": 120.0}
    return quick_settings(database_url, broker_url, tmp_path_factory.mktemp("saliency"), **changes)


@pytest.fixture
def worker(settings: Settings, session_factory: SessionFactory, tiny_model: TinyModel) -> Iterator[WorkerContext]:
    with transaction(session_factory) as session:
        model = add_base_model(session)
        model.path, model.digest = str(tiny_model()), reference_to(tiny_model()).digest
    with working(WorkerContext.from_settings(settings)) as context:
        yield context


def preview(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post(ROUTE, json={"model": BASE_MODEL, "examples": ROWS, **changes})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def bases(records: list[dict[str, Any]]) -> list[float]:
    return [token["base"] for record in records for token in record["tokens"]]


@pytest.mark.slow
def test_previews_and_a_job_tell_the_same_story(
    api_client: TestClient, worker: WorkerContext, session_factory: SessionFactory, store: BlobStore, tenant: Tenant
) -> None:
    before = preview(api_client)
    assert before["usage"]["cached_tokens"] == 0
    assert [record["example"] for record in before["data"]] == [
        {"file_line": line, "correct": line % 2 == 1} for line in range(1, 7)
    ]
    again = preview(api_client, hyperparameters={"judgment_ratio_threshold": 1.0001, "over_cap": "none"})
    assert again["usage"]["scored_tokens"] == 0
    assert again["usage"]["seconds"] < 1
    assert bases(again["data"]) == bases(before["data"])

    job = train(api_client, session_factory, store, tenant)
    listed = api_client.get(f"/v1/fine_tuning/jobs/{job['id']}/saliency?limit=100").json()["data"]
    at_start = sorted((r for r in listed if r["step"] == 0), key=lambda record: record["example"]["file_line"])
    assert [record["example"] for record in at_start] == [record["example"] for record in before["data"]]
    assert bases(at_start) == pytest.approx(bases(before["data"]), rel=1e-3)

    tuned = preview(api_client, model=job["fine_tuned_model"])
    last = max(record["step"] for record in listed)
    at_end = sorted((r for r in listed if r["step"] == last), key=lambda record: record["example"]["file_line"])
    assert bases(tuned["data"]) == pytest.approx(bases(at_end), rel=1e-3)
    assert bases(tuned["data"]) != pytest.approx(bases(before["data"]), rel=1e-3)
    refuses_what_does_not_fit(api_client)


def train(client: TestClient, factory: SessionFactory, store: BlobStore, tenant: Tenant) -> dict[str, Any]:
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    file_id = add_file(factory, store, tenant.project_id, content)
    settings = {"hyperparameters": {"n_epochs": 3, "learning_rate": 0.02}, "saliency": {"right": 3, "wrong": 3}}
    body = {"model": BASE_MODEL, "training_file": file_id, "method": {"type": "nlft", "nlft": settings}}
    job = client.post("/v1/fine_tuning/jobs", json=body).json()
    assert "id" in job, job
    path = f"/v1/fine_tuning/jobs/{job['id']}"
    wait_until(lambda: client.get(path).json()["status"] in {"succeeded", "failed"}, seconds=200)
    ended: dict[str, Any] = client.get(path).json()
    assert ended["status"] == "succeeded", ended["error"]
    return ended


def refuses_what_does_not_fit(client: TestClient) -> None:
    long = [{**ROWS[0], "response": f"{number} " * 180} for number in range(9)]
    for examples, code in ((long, "too_many_tokens"), ([{**ROWS[0], "response": "<|im_end|>!"}], "invalid_examples")):
        answer = client.post(ROUTE, json={"model": BASE_MODEL, "examples": examples})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text
