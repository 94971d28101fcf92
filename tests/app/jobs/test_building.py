"""From raw rows: which settings a create call takes, which files it accepts, what the job then says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.db.models import FineTuningJob
from app.db.session import SessionFactory
from app.main import create_app
from tests.app.jobs.test_validation import IN_NLFT, nlft, refuse
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import CHAT_ROW, NLFT_ROW, MakeFile, lines
from worker.training.spec import BuildingSettings, TrainingSpec

JOBS = "/v1/fine_tuning/jobs"
RAW_ROW = {name: value for name, value in NLFT_ROW.items() if name != "response"}
SCORER = {"type": "score_model", "name": "s", "model": "judge", "input": [{"role": "user", "content": "Rate."}]}
CHECK = {"type": "string_check", "name": "c", "input": "a", "reference": "b", "operation": "eq"}
ENDPOINTS = """
[judge]
base_url = "http://llm.example.com/v1"
api_key = "sk-operator-secret"
model = "large"
"""


@pytest.fixture
def api_app(settings: Settings, session_factory: SessionFactory, tmp_path: Path) -> Iterator[FastAPI]:
    path = tmp_path / "endpoints.toml"
    path.write_text(ENDPOINTS)
    app = create_app(settings.model_copy(update={"endpoints_file": path}), reconcile=False)
    yield app
    app.state.resources.close()


@pytest.fixture
def raw_body(base_model: str, make_file: MakeFile) -> dict[str, Any]:
    return {"model": base_model, "training_file": make_file(lines(RAW_ROW, 12)), "method": {"type": "nlft"}}


def create(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(JOBS, json=body)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def frozen(factory: SessionFactory, job: dict[str, Any]) -> BuildingSettings:
    with factory() as session:
        return TrainingSpec.model_validate(session.get_one(FineTuningJob, job["id"]).spec).building


@pytest.mark.parametrize("method", ["nlft", "supervised"])
def test_rows_without_a_response_are_accepted_and_the_job_says_how_they_are_built(
    api_client: TestClient, raw_body: dict[str, Any], session_factory: SessionFactory, method: str
) -> None:
    job = create(api_client, raw_body | {"method": {"type": method}})
    shown = {name: job["method"][method][name] for name in BuildingSettings.model_fields}
    assert shown == BuildingSettings().model_dump(mode="json")
    assert frozen(session_factory, job) == BuildingSettings()


def test_what_a_job_asks_for_is_frozen_in_it(
    api_client: TestClient, raw_body: dict[str, Any], session_factory: SessionFactory
) -> None:
    block = {
        "rollout": {"n": 8, "temperature": 1.0},
        "rationalization": {"n": 2},
        "grader": {
            "type": "multi",
            "name": "m",
            "graders": {"check": CHECK, "model": SCORER},
            "calculate_output": "(check + model) / 2",
        },
        "pass_threshold": 0.7,
        "judge": {"type": "endpoint", "model": "judge/large", "sampling_params": {"temperature": 0}},
        "mixture": {"max_wrong_per_question": 1, "wrong_share": 0.5},
    }
    job = create(api_client, raw_body | nlft(**block))
    building = frozen(session_factory, job)
    assert building == BuildingSettings.model_validate(block)
    assert job["method"]["nlft"]["rollout"]["n"] == 8
    assert "sk-operator-secret" not in json.dumps(job)


CASES = [
    ({"rollout": {"k": 4}}, "rollout.k", "Unknown parameter"),
    ({"rationalization": {"n": -1}}, "rationalization.n", "greater than or equal to 0"),
    ({"rollout": {"n": 0}}, "rollout.n", "greater than or equal to 1"),
    ({"rollout": {"top_p": 0}}, "rollout.top_p", "greater than 0"),
    ({"rolout": {}}, "rolout", "Did you mean 'rollout'"),
    ({"grader": {"type": "string_chek", "name": "c"}}, "grader.type", "string_check"),
    ({"grader": {**CHECK, "operation": "equals"}}, "grader.operation", "ilike"),
    ({"grader": {**CHECK, "input": "{{ item.nothing }}"}}, "grader", "nothing"),
    ({"grader": {"type": "python", "name": "p", "source": "pass"}}, "grader", "runs no code"),
    ({"grader": {"extract": "pattern"}}, "grader", "pattern"),
    (
        {"grader": {"type": "multi", "name": "m", "graders": {"a": {**CHECK, "x": 1}}, "calculate_output": "a"}},
        "grader.graders.a.x",
        "Unknown parameter",
    ),
    ({"pass_threshold": "high"}, "pass_threshold", "valid number"),
    ({"judge": {"type": "human"}}, "judge.type", "template"),
    ({"judge": {}}, "judge.type", "type"),
    ({"judge": {"type": "self", "max_new_tokens": 0}}, "judge.max_new_tokens", "greater than or equal to 1"),
    ({"judge": {"type": "endpoint", "model": "judge", "api_key": "x"}}, "judge.api_key", "Unknown parameter"),
    ({"judge": {"type": "endpoint", "model": "jugde"}}, "judge.model", "Endpoints: judge"),
    ({"judge": {"type": "endpoint", "model": "judge/other"}}, "judge.model", "offers: large"),
    ({"judge": {"type": "endpoint", "model": "http://10.0.0.1/v1"}}, "judge.model", "There is no endpoint"),
    ({"grader": {**SCORER, "model": "other"}}, "grader.model", "There is no endpoint 'other'"),
    (
        {
            "grader": {
                "type": "multi",
                "name": "m",
                "graders": {"a": {**SCORER, "model": "other"}},
                "calculate_output": "a",
            }
        },
        "grader.graders.a.model",
        "There is no endpoint 'other'",
    ),
    ({"mixture": {"wrong_share": 2}}, "mixture.wrong_share", "less than or equal to 1"),
    ({"mixture": {"max_rows": 0}}, "mixture.max_rows", "greater than or equal to 1"),
]


@pytest.mark.parametrize(("block", "place", "told"), CASES, ids=[case[1] + str(i) for i, case in enumerate(CASES)])
def test_a_wrong_setting_is_refused_at_its_place(
    api_client: TestClient, raw_body: dict[str, Any], block: dict[str, Any], place: str, told: str
) -> None:
    error = refuse(api_client, raw_body | nlft(**block))
    assert (error["param"], error["type"]) == (f"{IN_NLFT}.{place}", "invalid_request_error")
    assert told in error["message"]


def test_an_unknown_endpoint_has_a_code_of_its_own(api_client: TestClient, raw_body: dict[str, Any]) -> None:
    error = refuse(api_client, raw_body | nlft(judge={"type": "endpoint", "model": "nobody"}))
    assert error["code"] == "unknown_endpoint"


@pytest.mark.parametrize("stage", ["rollout", "rationalization"])
def test_a_stage_that_would_sample_nothing_is_refused(
    api_client: TestClient, job_body: dict[str, Any], stage: str
) -> None:
    error = refuse(api_client, job_body | nlft(**{stage: {"n": 2}}))
    assert error["param"] == f"{IN_NLFT}.{stage}"
    assert "every row of the training file has a response" in error["message"]


@pytest.mark.parametrize(
    ("block", "place"),
    [
        ({"judge": {"type": "self"}}, "judge"),
        ({"judge": {"type": "self"}, "mixture": {"max_wrong_per_question": 0}}, "judge"),
        ({"grader": {}}, "grader"),
        ({"pass_threshold": 0.9}, "pass_threshold"),
    ],
)
def test_a_verdict_that_nothing_depends_on_is_refused(
    api_client: TestClient, job_body: dict[str, Any], block: dict[str, Any], place: str
) -> None:
    error = refuse(api_client, job_body | {"method": {"type": "supervised", "supervised": block}})
    assert error["param"] == f"method.supervised.{place}"
    assert "would have no effect" in error["message"]


def test_rejection_sampling_is_supervised_training_of_right_responses(
    api_client: TestClient, job_body: dict[str, Any], session_factory: SessionFactory
) -> None:
    block = {"grader": {"extract": "last_number"}, "mixture": {"max_wrong_per_question": 0}}
    job = create(api_client, job_body | {"method": {"type": "supervised", "supervised": block}})
    assert frozen(session_factory, job) == BuildingSettings.model_validate(block)


@pytest.mark.parametrize("name", ["grader", "judge", "mixture", "pass_threshold"])
def test_rows_of_another_format_are_trained_as_they_are(
    api_client: TestClient, base_model: str, make_file: MakeFile, name: str
) -> None:
    value = {"grader": {}, "judge": {"type": "template"}, "mixture": {}, "pass_threshold": 1}[name]
    body = {"model": base_model, "training_file": make_file(lines(CHAT_ROW, 3))}
    assert "judge" not in create(api_client, body)["method"]["supervised"]
    error = refuse(api_client, body | {"method": {"type": "supervised", "supervised": {name: value}}})
    assert error["param"] == f"method.supervised.{name}"


def test_endpoints_are_listed_without_address_and_key(api_client: TestClient, other_tenant: Tenant) -> None:
    answer = api_client.get("/v1/fine_tuning/endpoints")
    assert answer.status_code == 200
    assert [(item["id"], item["model"], item["models"]) for item in answer.json()["data"]] == [
        ("judge", "large", ["large"])
    ]
    assert "example.com" not in answer.text
    assert "sk-" not in answer.text


def test_the_catalogue_describes_building(api_client: TestClient) -> None:
    for method in api_client.get("/v1/fine_tuning/methods").json()["data"]:
        assert set(method["building"]["properties"]) == set(BuildingSettings.model_fields)
        assert method["building_defaults"] == BuildingSettings().model_dump(mode="json")
