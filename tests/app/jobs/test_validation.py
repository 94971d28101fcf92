"""Every way in which a create call can be refused, and the place that the answer names."""

import json
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.db.models import Adapter, FineTuningJob
from app.main import create_app
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import CHAT_ROW, CONTEXT_LENGTH, NLFT_ROW, MakeFile, lines

JOBS = "/v1/fine_tuning/jobs"


def refuse(client: TestClient, body: dict[str, Any], status: int = 400) -> dict[str, Any]:
    # Python's own encoder, because clients may send what a stricter one refuses: NaN, Infinity.
    answer = client.post(JOBS, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    return error


def nlft(**block: Any) -> dict[str, Any]:
    return {"method": {"type": "nlft", "nlft": block}}


def hyper(**values: Any) -> dict[str, Any]:
    return nlft(hyperparameters=values)


IN_NLFT = "method.nlft"
HYPER = "method.nlft.hyperparameters"
ASKING = {"type": "score_model", "name": "taste", "model": "judge", "input": [{"role": "user", "content": "Good?"}]}

CASES = [
    ({"model": None}, "model", "valid string"),
    ({"training_file": 7}, "training_file", "valid string"),
    ({"training_file": ""}, "training_file", "at least 1 character"),
    ({"sufix": "x"}, "sufix", "Did you mean 'suffix'"),
    ({"suffix": ""}, "suffix", "at least 1 character"),
    ({"suffix": "x" * 65}, "suffix", "at most 64"),
    ({"suffix": "!!!"}, "suffix", "letter or digit"),
    ({"suffix": "a\0b"}, "suffix", "U+0000"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 2**31}, "seed", "less than or equal to 2147483647"),
    ({"seed": "five"}, "seed", "valid integer"),
    ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "at most 16"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k", "at most 512"),
    ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 65}", "at most 64"),
    ({"metadata": {"k": 1}}, "metadata.k", "valid string"),
    ({"metadata": {"k": "a\0"}}, "metadata", "U+0000"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations", "not configured"),
    ({"method": {}}, "method.type", "Known methods: supervised, dynamic, cut, nlft"),
    ({"method": {"type": "dpo", "dpo": {}}}, "method.type", "Known methods: supervised, dynamic, cut, nlft"),
    ({"method": {"type": "reinforcement"}}, "method.type", "Known methods: supervised, dynamic, cut, nlft"),
    ({"method": {"type": ["nlft"]}}, "method.type", "not offered"),
    ({"method": {"type": "nlft", "nltf": {}}}, "method.nltf", "Did you mean 'nlft'"),
    ({"method": {"type": "nlft", "supervised": {}}}, "method.supervised", "does not belong"),
    ({"method": {"type": "nlft", "nlft": []}}, IN_NLFT, "valid dictionary"),
    ({"hyperparameters": {"n_epochs": 1}}, "hyperparameters", "method.nlft.hyperparameters"),
    (hyper(n_epoch=1), f"{HYPER}.n_epoch", "Did you mean 'n_epochs'"),
    (hyper(n_epoch="auto"), f"{HYPER}.n_epoch", "Did you mean 'n_epochs'"),
    (hyper(n_epochs=0), f"{HYPER}.n_epochs", "greater than or equal to 1"),
    (hyper(n_epochs="three"), f"{HYPER}.n_epochs", "valid integer"),
    (hyper(batch_size=257), f"{HYPER}.batch_size", "less than or equal to 256"),
    (hyper(learning_rate_multiplier=0), f"{HYPER}.learning_rate_multiplier", "greater than 0"),
    (hyper(scoring="twice"), f"{HYPER}.scoring", "online"),
    (hyper(max_seq_length=CONTEXT_LENGTH + 1), f"{HYPER}.max_seq_length", f"at most {CONTEXT_LENGTH}"),
    (hyper(early_stopping_patience=1), f"{HYPER}.early_stopping_patience", "validation_file"),
    (nlft(hyperparameter={}), f"{IN_NLFT}.hyperparameter", "Did you mean 'hyperparameters'"),
    (nlft(adapter={"r": 0}), f"{IN_NLFT}.adapter.r", "greater than or equal to 1"),
    (nlft(adapter={"rank": 8}), f"{IN_NLFT}.adapter.rank", "Unknown parameter"),
    (nlft(adapter={"cache_frozen_hidden_states": True}), f"{IN_NLFT}.adapter", "would have no effect"),
    (nlft(adapter={"target_modules": ["\0"]}), "method", "U+0000"),
    (nlft(adapter={"alpha": float("inf")}), "method", "finite"),
    (hyper(weight_decay=float("nan")), "method", "finite"),
    (hyper(n_epochs=[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]), "method", "levels deep"),
    (nlft(adapter={"type": "ia3"}), f"{IN_NLFT}.adapter.type", "lora"),
    (nlft(evaluation={"max_example": 4}), f"{IN_NLFT}.evaluation.max_example", "Did you mean 'max_examples'"),
    (nlft(evaluation={"grader": {"marker": 1}}), f"{IN_NLFT}.evaluation.grader.marker", "valid string"),
    (nlft(evaluation={"grader": {"type": "python"}}), f"{IN_NLFT}.evaluation.grader", "runs no code"),
    (nlft(evaluation={"grader": ASKING}), f"{IN_NLFT}.evaluation.grader", "asks an endpoint"),
    (nlft(grader={"extract": "pattern", "pattern": "("}), f"{IN_NLFT}.grader.pattern", "regular expression"),
    (nlft(evaluation={}), f"{IN_NLFT}.evaluation", "validation_file"),
    (nlft(n_gpus=0), f"{IN_NLFT}.n_gpus", "greater than or equal to 1"),
    (nlft(n_gpus=2), f"{IN_NLFT}.n_gpus", "at most 1 of this server's devices"),
    (nlft(prompts="poetic"), f"{HYPER}.prompts", "'default' or 'paper'"),
    (nlft(prompts="default", hyperparameters={"prompts": "paper"}), f"{IN_NLFT}.prompts", "contradict"),
    (nlft(prompts={"reference": "{{ question }}"}), f"{HYPER}.prompts.reference", "must contain {{ reference }}"),
    (nlft(prompts={"refrence": "x"}), f"{HYPER}.prompts.refrence", "Did you mean 'reference'"),
    ({"method": {"type": "supervised", "supervised": {"prompts": "x"}}}, "method.supervised.prompts", "Unknown"),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[1]}-{case[2]}" for case in CASES])
def test_bad_field_is_named(
    api_client: TestClient, session: Session, job_body: dict[str, Any], case: tuple[Any, str, str]
) -> None:
    change, param, words = case
    error = refuse(api_client, {**job_body, **change})
    assert error["param"] == param
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert session.scalar(select(func.count()).select_from(FineTuningJob)) == 0


@pytest.mark.parametrize("field", ["model", "training_file"])
def test_required_field_is_named(api_client: TestClient, job_body: dict[str, Any], field: str) -> None:
    del job_body[field]
    error = refuse(api_client, job_body)
    assert (error["param"], error["code"]) == (field, "missing_required_parameter")


def test_earlier_spelling_reports_its_own_place(api_client: TestClient, base_model: str, make_file: MakeFile) -> None:
    body = {"model": base_model, "training_file": make_file(lines(CHAT_ROW, 3)), "hyperparameters": {"n_epochs": 99}}
    assert refuse(api_client, body)["param"] == "hyperparameters.n_epochs"
    both = {**body, "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}}
    assert refuse(api_client, both)["param"] == "hyperparameters"


def test_body_must_be_an_object(api_client: TestClient) -> None:
    for content in (b"[]", b"{", b""):
        answer = api_client.post(JOBS, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "m", "training_file": "f", "method": {"type": "nlft", "\\ud800": 1}}',
        b'{"model": "\\ud800", "training_file": "f"}',
        b'{"model": "m", "training_file": "f", "\\ud800": 1}',
        b'{"model": "m", "training_file": "f", "method": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": "m", "training_file": "f", "method": {"type": ' + b"[" * 200 + b"]" * 200 + b"}}",
        b'{"model": "m", "training_file": "f", "seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_hostile_body_is_refused(api_client: TestClient, content: bytes) -> None:
    answer = api_client.post(JOBS, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_unknown_base_model_names_the_available(api_client: TestClient, job_body: dict[str, Any]) -> None:
    error = refuse(api_client, {**job_body, "model": "gpt-9"}, status=404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert job_body["model"] in error["message"]


def test_tuned_model_is_no_base(
    api_client: TestClient, other_client: TestClient, session: Session, job_body: dict[str, Any], finish: Any
) -> None:
    job_id = api_client.post(JOBS, json=job_body).json()["id"]
    finish(job_id)
    tuned = session.scalars(select(Adapter.model)).one()
    assert refuse(api_client, {**job_body, "model": tuned})["code"] == "not_supported"
    assert refuse(other_client, {**job_body, "model": tuned}, status=404)["code"] == "model_not_found"


def test_training_rows_that_lack_what_the_method_needs_are_refused_at_once(
    api_client: TestClient, job_body: dict[str, Any], make_file: MakeFile
) -> None:
    incomplete = make_file(lines({name: value for name, value in NLFT_ROW.items() if name != "reference"}, 3))
    error = refuse(api_client, {**job_body, "training_file": incomplete})
    assert (error["param"], error["code"]) == ("training_file", "missing_reference")
    assert "3 row(s)" in error["message"]
    assert api_client.post(JOBS, json={**job_body, "validation_file": incomplete}).status_code == 200


@pytest.mark.parametrize("field", ["training_file", "validation_file"])
def test_unfit_file_is_named(
    api_client: TestClient, job_body: dict[str, Any], make_file: MakeFile, other_tenant: Tenant, field: str
) -> None:
    files = {
        "file-unknown": "file_not_found",
        make_file(project_id=other_tenant.project_id): "file_not_found",
        make_file(purpose="user_data"): "invalid_file_purpose",
        make_file(lines(CHAT_ROW, 4)): "invalid_file_format",
    }
    for file_id, code in files.items():
        error = refuse(api_client, {**job_body, field: file_id})
        assert (error["param"], error["code"]) == (field, code)
        assert file_id in error["message"]


def test_queue_of_a_project_is_bounded(settings: Settings, tenant: Tenant, job_body: dict[str, Any]) -> None:
    narrow = settings.model_copy(update={"max_queued_jobs": 2, "broker_url": SecretStr("redis://127.0.0.1:9/0")})
    with TestClient(create_app(narrow), headers=tenant.headers) as client:
        made = [client.post(JOBS, json=job_body).json()["id"] for _ in range(2)]
        answer = client.post(JOBS, json=job_body)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(answer.headers["retry-after"]) > 0
        assert client.post(f"{JOBS}/{made[0]}/cancel").status_code == 200
        assert client.post(JOBS, json=job_body).status_code == 200
