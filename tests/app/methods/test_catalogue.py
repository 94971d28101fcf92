"""The methods catalogue: complete, true to validation, the same in the OpenAPI document."""

from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.fixtures.fine_tuning import ROWS, MakeFile, lines
from worker.training.data.examples import EXAMPLE_TYPES
from worker.training.methods import METHODS

CATALOGUE = "/v1/fine_tuning/methods"
JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def catalogue(api_client: TestClient) -> dict[str, dict[str, Any]]:
    answer = api_client.get(CATALOGUE)
    assert answer.status_code == 200
    assert answer.json()["object"] == "list"
    return {method["id"]: method for method in answer.json()["data"]}


def test_every_registered_method_is_listed(catalogue: dict[str, dict[str, Any]]) -> None:
    assert list(catalogue) == list(METHODS)
    for name, method in catalogue.items():
        assert method["paper"].startswith("https://")
        assert method["summary"] == METHODS[name].summary
        assert set(method["defaults"]) == set(method["hyperparameters"]["properties"])
        assert set(method["adapter_defaults"]) == set(method["adapter"]["properties"])


@pytest.mark.parametrize("name", METHODS)
def test_every_hyperparameter_is_described_and_takes_auto(catalogue: dict[str, dict[str, Any]], name: str) -> None:
    properties = catalogue[name]["hyperparameters"]["properties"]
    assert set(properties) == set(METHODS[name].hyperparameters_type.model_fields)
    for described in properties.values():
        assert described["description"]
        assert described["default"] == "auto"
        assert "auto" in str(described["anyOf"])


@pytest.mark.parametrize("name", METHODS)
def test_rows_are_described_by_their_format(catalogue: dict[str, dict[str, Any]], name: str) -> None:
    shown = {row["format"]: row["json_schema"] for row in catalogue[name]["rows"]}
    assert {EXAMPLE_TYPES[row_format] for row_format in shown} == set(METHODS[name].example_types)
    for row_format, schema in shown.items():
        assert schema == msgspec.json.schema(EXAMPLE_TYPES[row_format])


@pytest.mark.parametrize("name", METHODS)
def test_a_job_may_say_auto_everywhere(
    api_client: TestClient,
    catalogue: dict[str, dict[str, Any]],
    base_model: str,
    make_file: MakeFile,
    name: str,
) -> None:
    row_format = catalogue[name]["rows"][0]["format"]
    row = ROWS[row_format]
    settings = {
        "hyperparameters": dict.fromkeys(catalogue[name]["hyperparameters"]["properties"], "auto"),
        "adapter": catalogue[name]["adapter_defaults"],
    }
    body = {"model": base_model, "training_file": make_file(lines(row, 4)), "method": {"type": name, name: settings}}
    answer = api_client.post(JOBS, json=body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["method"][name]["hyperparameters"]) == set(settings["hyperparameters"])


def test_openapi_describes_the_method_block(api_app: FastAPI) -> None:
    document = api_app.openapi()
    schemas = document["components"]["schemas"]
    assert "#/components/schemas/MethodSettings" in str(schemas["JobCreate"]["properties"]["method"])
    text = str(schemas["MethodSettings"]["properties"])
    for name in METHODS:
        assert f"'{name}'" in text
    assert "judgment_ratio_threshold" in str(schemas)


def test_catalogue_needs_a_key(api_client: TestClient) -> None:
    assert api_client.get(CATALOGUE, headers={"authorization": ""}).status_code == 401
