"""Creating a job: what the answer shows, what is frozen, what is stored."""

from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.db.models import BaseModel, File, FileHold, FineTuningJob
from app.main import create_app
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import CHAT_ROW, MakeFile, lines
from worker.training.methods.nlft import NLFTHyperparameters
from worker.training.spec import TrainingSpec

JOBS = "/v1/fine_tuning/jobs"


def create(client: TestClient, body: dict[str, Any], **changes: Any) -> Any:
    answer = client.post(JOBS, json={**body, **changes})
    assert answer.status_code == 200, answer.text
    return answer.json()


def spec_of(session: Session, job_id: str) -> TrainingSpec:
    return TrainingSpec.model_validate(session.scalars(select(FineTuningJob.spec).filter_by(id=job_id)).one())


def test_answer_holds_every_field_of_the_wire_format(api_client: TestClient, job_body: dict[str, Any]) -> None:
    job = create(api_client, job_body, seed=5, metadata={"a": "b"}, validation_file=job_body["training_file"])
    assert job["object"] == "fine_tuning.job"
    assert job["status"] == "queued"
    assert job["model"] == job_body["model"]
    assert (job["training_file"], job["validation_file"]) == (job_body["training_file"],) * 2
    assert (job["seed"], job["metadata"], job["result_files"]) == (5, {"a": "b"}, [])
    for absent in ("error", "fine_tuned_model", "finished_at", "estimated_finish", "trained_tokens", "integrations"):
        assert job[absent] is None
    assert job["organization_id"].startswith("proj_")
    assert isinstance(job["created_at"], int)
    assert job["service"]["attempt"] == 0


def test_auto_is_resolved_in_the_answer(api_client: TestClient, job_body: dict[str, Any]) -> None:
    block = {"hyperparameters": {"n_epochs": "auto", "learning_rate_multiplier": 0.5}, "adapter": {"r": 4}}
    job = create(api_client, job_body, method={"type": "nlft", "nlft": block})
    shown = job["method"]["nlft"]
    assert job["method"]["type"] == "nlft"
    assert "auto" not in [value for name, value in shown["hyperparameters"].items() if name != "preset"]
    assert set(shown["hyperparameters"]) == set(NLFTHyperparameters.model_fields)
    assert shown["adapter"]["r"] == 4
    assert shown["evaluation"]["max_examples"] == 256
    resolved = shown["hyperparameters"]
    assert job["hyperparameters"] == {
        "n_epochs": resolved["n_epochs"],
        "batch_size": resolved["batch_size"],
        "learning_rate_multiplier": 0.5,
    }


def test_supervised_is_the_default_and_takes_the_earlier_spelling(
    api_client: TestClient, job_body: dict[str, Any], make_file: MakeFile
) -> None:
    body = {"model": job_body["model"], "training_file": make_file(lines(CHAT_ROW, 10))}
    plain = create(api_client, body)
    assert plain["method"]["type"] == "supervised"
    legacy = create(api_client, body, hyperparameters={"n_epochs": 7, "batch_size": "auto"})
    assert legacy["method"]["supervised"]["hyperparameters"]["n_epochs"] == 7
    assert legacy["hyperparameters"]["n_epochs"] == 7


def test_prompt_set_may_stand_beside_the_hyperparameters(api_client: TestClient, job_body: dict[str, Any]) -> None:
    job = create(api_client, job_body, method={"type": "nlft", "nlft": {"prompts": "paper"}})
    assert job["method"]["nlft"]["hyperparameters"]["prompts"] == "paper"


def test_adapter_settings_extend_those_of_the_method(api_client: TestClient, job_body: dict[str, Any]) -> None:
    block = {"hyperparameters": {"preset": "paper"}, "adapter": {"r": 4}}
    adapter = create(api_client, job_body, method={"type": "nlft", "nlft": block})["method"]["nlft"]["adapter"]
    assert adapter["r"] == 4
    assert adapter["target_modules"] == ["gate_proj", "up_proj", "down_proj"]


def test_devices_are_shown_frozen_and_kept_for_the_claim(
    settings: Settings, tenant: Tenant, session: Session, job_body: dict[str, Any]
) -> None:
    app = create_app(settings.model_copy(update={"worker_devices": "0,1"}))
    with TestClient(app, headers=tenant.headers) as client:
        assert create(client, job_body)["method"]["nlft"]["n_gpus"] == 1
        job = create(client, job_body, method={"type": "nlft", "nlft": {"n_gpus": 2}})
    assert job["method"]["nlft"]["n_gpus"] == 2
    assert spec_of(session, job["id"]).n_gpus == 2
    assert session.get_one(FineTuningJob, job["id"]).n_gpus == 2


def test_spec_holds_everything_that_decides_the_result(
    api_client: TestClient, session: Session, job_body: dict[str, Any]
) -> None:
    job = create(api_client, job_body, validation_file=job_body["training_file"], seed=11)
    spec = spec_of(session, job["id"])
    assert (spec.job_id, spec.seed, spec.method, spec.has_validation_file) == (job["id"], 11, "nlft", True)
    assert spec.base_model.path == f"/models/{job_body['model']}"
    assert spec.base_model.digest == "d" * 64 == job["service"]["base_model_digest"]
    assert spec.hyperparameters == job["method"]["nlft"]["hyperparameters"]
    assert spec.adapter.model_dump(mode="json") == job["method"]["nlft"]["adapter"]


def test_later_changes_do_not_reach_a_stored_spec(
    api_client: TestClient, session: Session, job_body: dict[str, Any]
) -> None:
    job = create(api_client, job_body)
    before = spec_of(session, job["id"])
    base_model = session.get_one(BaseModel, job_body["model"])
    base_model.path, base_model.parameters = "/elsewhere", 8_000_000_000
    session.commit()
    later = create(api_client, job_body)
    assert later["method"] != job["method"], "auto depends on the size of the base model"
    for each in (job, later):
        assert api_client.post(f"{JOBS}/{each['id']}/cancel").status_code == 200
    session.execute(delete(File))
    session.commit()
    shown = api_client.get(f"{JOBS}/{job['id']}").json()
    assert (shown["method"], shown["training_file"]) == (job["method"], job_body["training_file"])
    assert spec_of(session, job["id"]) == before


def test_input_files_are_held(api_client: TestClient, session: Session, job_body: dict[str, Any]) -> None:
    job = create(api_client, job_body)
    held = session.scalars(select(FileHold.file_id).filter_by(job_id=job["id"])).all()
    assert held == [job_body["training_file"]]


def test_seed_is_drawn_when_absent(api_client: TestClient, job_body: dict[str, Any]) -> None:
    seeds = {create(api_client, job_body)["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("written", "safe"),
    [
        ("my run", "my-run"),
        ("Ünïcode/é", "Unicode-e"),
        ("a:b:c", "a-b-c"),
        ("..x..", "x"),
        ("㎏" * 40, "kg" * 32),
    ],
)
def test_suffix_becomes_safe_for_a_model_name(
    api_client: TestClient, session: Session, job_body: dict[str, Any], written: str, safe: str
) -> None:
    job = create(api_client, job_body, suffix=written)
    assert session.scalars(select(FineTuningJob.suffix).filter_by(id=job["id"])).one() == safe


@pytest.mark.parametrize("integrations", [None, []])
def test_no_integration_is_accepted(api_client: TestClient, job_body: dict[str, Any], integrations: Any) -> None:
    assert create(api_client, job_body, integrations=integrations)["integrations"] == integrations


def test_job_is_stored_while_the_broker_is_away(
    settings: Settings, tenant: Tenant, session: Session, job_body: dict[str, Any]
) -> None:
    away = settings.model_copy(update={"broker_url": SecretStr("redis://127.0.0.1:9/0")})
    with TestClient(create_app(away), headers=tenant.headers) as client:
        job = create(client, job_body)
    row = session.get_one(FineTuningJob, job["id"])
    assert (row.status, row.dispatched_at) == ("queued", None)


def test_hint_that_went_out_is_noted(api_client: TestClient, session: Session, job_body: dict[str, Any]) -> None:
    row = session.get_one(FineTuningJob, create(api_client, job_body)["id"])
    assert row.dispatched_at is not None
    assert row.dispatch_count == 1
