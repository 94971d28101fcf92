"""What a job will take, asked before it exists, kept when it is created, and set beside what it took."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.db.models import File, FineTuningJob
from app.db.session import SessionFactory, transaction
from app.jobs import lifecycle
from app.jobs.attempts import AttemptRecord
from app.jobs.publication import JobResult
from app.storage import BlobStore
from tests.fixtures.fine_tuning import NLFT_ROW, MakeFile, claim_job, lines

JOBS = "/v1/fine_tuning/jobs"
FIGURES = {
    "rows",
    "steps",
    "trained_tokens",
    "scored_tokens",
    "generated_tokens",
    "longest_sequence",
    "seconds",
    "peak_memory_bytes",
}
QUESTION = {"messages": [{"role": "user", "content": "2+2?"}], "reference": "Together 2 + 2 = 4. #### 4"}


def estimate(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"{JOBS}/estimate", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def nlft(base_model: str, file_id: str, **settings: Any) -> dict[str, Any]:
    return {"model": base_model, "training_file": file_id, "method": {"type": "nlft", "nlft": settings}}


def test_every_figure_has_a_basis_and_nothing_is_created(
    api_client: TestClient, session: Session, base_model: str, make_file: MakeFile
) -> None:
    found = estimate(api_client, nlft(base_model, make_file(lines(NLFT_ROW, 40))))
    assert found["object"] == "fine_tuning.job.estimate"
    assert found["estimate"].keys() == FIGURES
    assert all(figure["value"] >= 0 and figure["basis"] for figure in found["estimate"].values())
    hyperparameters = found["method"]["nlft"]["hyperparameters"]
    assert found["estimate"]["steps"]["value"] == hyperparameters["n_epochs"] * 40 / hyperparameters["batch_size"]
    assert "no job on this base model" in found["estimate"]["seconds"]["basis"]
    assert session.scalar(select(func.count()).select_from(FineTuningJob)) == 0


def test_data_report_names_lines(api_client: TestClient, base_model: str, make_file: MakeFile) -> None:
    rows = lines(NLFT_ROW, 20)
    long = {**NLFT_ROW, "messages": [{"role": "user", "content": "x " * 3000}]}
    data = rows + rows.splitlines(keepends=True)[4] + json.dumps(long).encode() + b"\n"
    found = estimate(api_client, nlft(base_model, make_file(data)))["data"]
    advice = {one["code"]: one["data"] for one in found["advice"]}
    assert advice["duplicate_questions"]["lines"] == [21]
    assert advice["long_rows"]["lines"] == [22]
    assert advice["identical_references"]["same"] == 21
    assert found["training_file"]["rows"] == 22
    assert found["training_file"]["warnings"][0]["line"] == 21


def test_rows_to_be_built_are_estimated_and_their_settings_wait(
    api_client: TestClient, base_model: str, make_file: MakeFile
) -> None:
    body = nlft(base_model, make_file(lines(QUESTION, 50)), rollout={"n": 4, "max_new_tokens": 64})
    found = estimate(api_client, body)
    assert found["method"]["nlft"]["hyperparameters"]["n_epochs"] == "auto"
    assert found["auto"]["n_epochs"] == {"value": "auto", "reason": "follows from the rows; chosen once they are built"}
    assert found["auto"]["learning_rate"]["reason"].startswith("base model of")
    assert found["estimate"]["rows"]["value"] == 200
    assert found["estimate"]["generated_tokens"]["value"] == 50 * 4 * 32
    limited = estimate(api_client, body | {"method": _with_mixture(body, max_wrong_per_question=1)})
    assert limited["estimate"]["rows"]["value"] == 150
    bare = nlft(base_model, make_file(lines({**QUESTION, "reference": "#### 4"}, 50)), rollout={"max_new_tokens": 64})
    assert estimate(api_client, bare)["estimate"]["rows"]["value"] == 100


def _with_mixture(body: dict[str, Any], **mixture: int) -> dict[str, Any]:
    return {"type": "nlft", "nlft": {**body["method"]["nlft"], "mixture": mixture}}


def test_faults_are_those_of_a_create(api_client: TestClient, base_model: str, make_file: MakeFile) -> None:
    body = nlft(base_model, make_file(lines(NLFT_ROW, 4)), hyperparameters={"n_epoch": 3})
    refused = api_client.post(f"{JOBS}/estimate", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "method.nlft.hyperparameters.n_epoch"
    assert refused.json() == api_client.post(JOBS, json=body).json()


def test_prediction_and_reasons_are_kept_on_the_job(
    api_client: TestClient, base_model: str, make_file: MakeFile
) -> None:
    body = nlft(base_model, make_file(lines(NLFT_ROW, 40)), hyperparameters={"batch_size": 8})
    wanted = estimate(api_client, body)["estimate"]
    job = api_client.post(JOBS, json=body).json()
    assert job["service"]["prediction"] == wanted
    assert job["service"]["outcome"] is None
    assert job["service"]["auto"].keys() == {"n_epochs", "learning_rate", "max_seq_length"}
    first = api_client.get(f"{JOBS}/{job['id']}/events").json()["data"][-1]
    assert first["data"]["auto"] == job["service"]["auto"]
    assert first["data"]["hyperparameters"] == job["method"]["nlft"]["hyperparameters"]


def test_a_job_is_created_without_a_prediction_where_its_bytes_cannot_be_read(
    api_client: TestClient, store: BlobStore, base_model: str, make_file: MakeFile, session: Session
) -> None:
    file_id = make_file(lines(NLFT_ROW, 4))
    store.delete(session.get_one(File, file_id).sha256)
    job = api_client.post(JOBS, json=nlft(base_model, file_id))
    assert job.status_code == 200
    assert job.json()["service"]["prediction"] is None


def test_what_was_predicted_lately_is_not_read_again(
    api_client: TestClient, base_model: str, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {**nlft(base_model, make_file(lines(NLFT_ROW, 40))), "seed": 1}
    first = api_client.post(JOBS, json=body).json()["service"]["prediction"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(BlobStore, "read", refuse)
    again = api_client.post(JOBS, json=body).json()
    assert again["service"]["prediction"] == first
    assert api_client.get(f"{JOBS}/{again['id']}").json() == again
    longer = {**body, **nlft(base_model, str(body["training_file"]), hyperparameters={"n_epochs": 7})}
    changed = api_client.post(JOBS, json=longer).json()["service"]["prediction"]
    assert changed["steps"]["value"] != first["steps"]["value"]


def test_what_finished_jobs_took_is_learned(
    api_client: TestClient, session_factory: SessionFactory, base_model: str, make_file: MakeFile, finish: Any
) -> None:
    body = nlft(base_model, make_file(lines(NLFT_ROW, 40)))
    before = estimate(api_client, body)["estimate"]
    job_id = api_client.post(JOBS, json=body).json()["id"]
    finish(job_id, {"characters_per_token": 1.5, "seconds_per_work": 1e-3, "peak_memory_bytes": 123_000_000})
    after = estimate(api_client, body)["estimate"]
    assert after["trained_tokens"]["value"] > before["trained_tokens"]["value"]
    assert after["peak_memory_bytes"] == {
        "value": 123_000_000,
        "basis": "largest of 1 finished job(s) on this base model",
    }
    outcome = api_client.get(f"{JOBS}/{job_id}").json()["service"]["outcome"]
    assert outcome["attempts"] == 1
    assert outcome["wall_seconds"] >= 0
    assert outcome["seconds_per_work"] == 1e-3


@pytest.fixture
def finish(session_factory: SessionFactory, store: BlobStore) -> Callable[[str, dict[str, float]], None]:
    def end(job_id: str, outcome: dict[str, float]) -> None:
        lease = claim_job(session_factory, job_id)
        result = JobResult(7, {}, (), (), outcome=dict(outcome))
        with transaction(session_factory) as session:
            assert lifecycle.succeed(session, lease, result, AttemptRecord("publish"))

    return end
