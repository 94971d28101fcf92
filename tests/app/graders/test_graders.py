import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.graders import service
from app.main import create_app
from tests.fixtures.api import Tenant
from tests.fixtures.endpoints import KEY, FakeEndpoint, Reply

RUN = "/v1/fine_tuning/alpha/graders/run"
VALIDATE = "/v1/fine_tuning/alpha/graders/validate"
CHECK = {
    "type": "string_check",
    "name": "same",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
SCORE = {
    "type": "score_model",
    "name": "taste",
    "model": "judge",
    "input": [{"role": "user", "content": "Rate: {{ sample.output_text }}"}],
    "range": [0, 10],
}


@pytest.fixture
def asking_client(
    settings: Settings, tenant: Tenant, fake_endpoint: FakeEndpoint, tmp_path: Path
) -> Iterator[TestClient]:
    """A client of a service with one endpoint, ``judge``, which gives up quickly."""
    file = tmp_path / "endpoints.toml"
    file.write_text(
        f'[judge]\nbase_url = "{fake_endpoint.url}"\napi_key = "{KEY}"\nmodel = "large"\n'
        "timeout_seconds = 0.3\nattempts = 1\n"
    )
    app = create_app(settings.model_copy(update={"endpoints_file": file}), reconcile=False)
    with TestClient(app, headers=tenant.headers, raise_server_exceptions=False) as client:
        yield client
    app.state.resources.close()


def run(client: TestClient, grader: dict[str, Any], sample: str, **item: Any) -> dict[str, Any]:
    answer = client.post(RUN, json={"grader": grader, "model_sample": sample, "item": item})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_run_answers_with_everything_that_the_sdk_reads(api_client: TestClient) -> None:
    found = run(api_client, CHECK, "Paris", answer="Paris")
    assert found["reward"] == 1
    assert found["sub_rewards"] == {}
    assert found["model_grader_token_usage_per_model"] == {}
    metadata = found["metadata"]
    assert (metadata["name"], metadata["type"], metadata["scores"]) == ("same", "string_check", {"same": 1})
    assert (metadata["sampled_model_name"], metadata["token_usage"]) == (None, None)
    assert 0 <= metadata["execution_time"] < 5
    assert not any(metadata["errors"].values())


def test_a_formula_shows_its_parts(api_client: TestClient) -> None:
    grader = {
        "type": "multi",
        "name": "both",
        "graders": {"same": CHECK, "number": {"type": "final_answer"}},
        "calculate_output": "0.25 * same + 0.75 * number",
    }
    found = run(api_client, grader, "It is #### 4", answer="4", reference="4.0")
    assert found["reward"] == 0.75
    assert found["sub_rewards"] == found["metadata"]["scores"] == {"same": 0, "number": 1}


def test_a_name_that_the_item_lacks_is_told_in_the_errors(api_client: TestClient) -> None:
    found = run(api_client, CHECK, "Paris", town="Paris")
    errors = found["metadata"]["errors"]
    assert found["reward"] == 0
    assert errors["invalid_variable_error"]
    assert errors["invalid_variable_error_details"] == "there is no item.answer; item has town"


@pytest.mark.parametrize(
    ("grader", "param", "message"),
    [
        ({**CHECK, "operation": "is"}, "grader.operation", "'eq', 'ne', 'like' or 'ilike'"),
        ({**CHECK, "inputs": "x"}, "grader.inputs", "Did you mean 'input'"),
        ({**CHECK, "input": "{{ answer }}"}, "grader.input", "unknown name 'answer'"),
        ({**CHECK, "input": "{% for x in y %}"}, "grader.input", "braces do not match"),
        ({"type": "python", "name": "p", "source": "1"}, "grader", "runs no code"),
        ({"name": "untyped"}, "grader.type", "Missing required parameter"),
        (
            {"type": "multi", "name": "m", "graders": {"s": CHECK}, "calculate_output": "s.x"},
            "grader.calculate_output",
            "only",
        ),
        ({**SCORE, "model": "nobody"}, "grader.model", "There is no endpoint 'nobody'"),
        (
            {"type": "multi", "name": "m", "graders": {"s": SCORE}, "calculate_output": "s"},
            "grader.graders.s.model",
            "There is no endpoint 'judge'",
        ),
    ],
)
@pytest.mark.parametrize("path", [RUN, VALIDATE])
def test_a_grader_that_cannot_work_is_refused_with_its_place(
    api_client: TestClient, path: str, grader: dict[str, Any], param: str, message: str
) -> None:
    body = {"grader": grader} if path == VALIDATE else {"grader": grader, "model_sample": "x"}
    answer = api_client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]


def test_validate_fills_in_defaults(api_client: TestClient, asking_client: TestClient) -> None:
    answer = api_client.post(VALIDATE, json={"grader": {"type": "final_answer"}})
    assert answer.json() == {
        "grader": {"type": "final_answer", "name": "final_answer", "extract": "marker", "marker": "####"}
    }
    scoring = {**SCORE, "sampling_params": {"max_completions_tokens": 9, "seed": 1}}
    grader = asking_client.post(VALIDATE, json={"grader": scoring}).json()["grader"]
    assert grader["sampling_params"] == scoring["sampling_params"]
    assert grader["range"] == [0, 10]


def test_a_scoring_model_is_asked_and_paid(asking_client: TestClient, fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply("I give it 7.", tokens=30))
    found = run(asking_client, SCORE, "a haiku")
    assert found["reward"] == 7
    assert found["metadata"]["sampled_model_name"] == "judge"
    assert found["metadata"]["token_usage"] == 30
    assert found["model_grader_token_usage_per_model"] == {"judge": 30}
    (asked,) = fake_endpoint.asked
    assert asked.text.startswith("Rate: a haiku\n\nAnswer with one number from 0 to 10")


@pytest.mark.parametrize(
    ("reply", "kind", "details"),
    [
        (Reply("As a model I have no taste."), "model_grader_parse_error", "no number"),
        (Reply(""), "model_grader_parse_error", "no number"),
        (Reply(None), "model_grader_parse_error", "no number"),
        (Reply("11"), "model_grader_parse_error", "scored 11"),
        (Reply(status=401), "model_grader_server_error", "refused: The endpoint 'judge' answered with status 401."),
        (Reply(status=429), "model_grader_server_error", "status 429"),
        (Reply(status=500), "model_grader_server_error", "status 500"),
        (Reply(body=b"<html>"), "model_grader_server_error", "malformed"),
        (Reply(hangs=True), "model_grader_server_error", "timeout"),
        (Reply(drops=True), "model_grader_server_error", "unreachable"),
    ],
)
def test_what_an_endpoint_does_wrong_is_told_in_the_errors(
    asking_client: TestClient, fake_endpoint: FakeEndpoint, reply: Reply, kind: str, details: str
) -> None:
    fake_endpoint.script(reply)
    found = run(asking_client, SCORE, "a haiku")
    errors = found["metadata"]["errors"]
    assert found["reward"] == 0
    assert [name for name, value in errors.items() if value is True] == [kind]
    assert details in errors[f"{kind}_details"]
    assert KEY not in str(found)


def test_nobody_waits_for_an_endpoint_for_ever(
    asking_client: TestClient, fake_endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_LONGEST_ANSWER_SECONDS", 0.05)
    fake_endpoint.script(Reply("7", seconds=0.25))
    started = time.monotonic()
    errors = run(asking_client, SCORE, "a haiku")["metadata"]["errors"]
    assert errors["model_grader_server_error_details"] == "timeout: no answer within 0.05 seconds"
    assert time.monotonic() - started < 5


def test_few_callers_ask_at_once(
    asking_client: TestClient, fake_endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_ASKING", threading.BoundedSemaphore(1))
    assert service._ASKING.acquire(blocking=False)
    answer = asking_client.post(RUN, json={"grader": SCORE, "model_sample": "x"})
    assert (answer.status_code, fake_endpoint.asked) == (429, [])
    service._ASKING.release()
    fake_endpoint.script(Reply("3"))
    assert run(asking_client, SCORE, "x")["reward"] == 3
    assert service._ASKING.acquire(blocking=False), "a finished run makes room for the next"
