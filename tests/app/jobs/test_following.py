"""Which rows a job follows is settable, checked at its place, and frozen into what the trainer reads."""

from typing import Any

import pytest
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.db.models import FineTuningJob
from tests.app.jobs.test_create import create
from worker.training.spec import SaliencySettings, TrainingSpec


def block(**settings: Any) -> dict[str, Any]:
    return {"type": "nlft", "nlft": {"saliency": settings}}


def test_pinned_rows_reach_the_trainer(api_client: TestClient, job_body: dict[str, Any], session: Session) -> None:
    job = create(api_client, job_body, method=block(lines=[2, 1]))
    assert job["method"]["nlft"]["saliency"] == {"lines": [2, 1], "right": 4, "wrong": 4}
    stored = session.get_one(FineTuningJob, job["id"])
    assert TrainingSpec.model_validate(stored.spec).saliency == SaliencySettings(lines=[2, 1])


def test_a_job_that_says_nothing_follows_a_handful(api_client: TestClient, job_body: dict[str, Any]) -> None:
    job = create(api_client, job_body)
    assert job["method"][job["method"]["type"]]["saliency"] == {"lines": None, "right": 4, "wrong": 4}


@pytest.mark.parametrize(
    ("written", "param"),
    [({"lines": [0]}, "lines[0]"), ({"right": 26}, "right"), ({"line": [1]}, "line"), ({"lines": [1] * 51}, "lines")],
)
def test_faults_are_named_by_their_path(
    api_client: TestClient, job_body: dict[str, Any], written: dict[str, Any], param: str
) -> None:
    answer = api_client.post("/v1/fine_tuning/jobs", json={**job_body, "method": block(**written)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == f"method.nlft.saliency.{param}"
