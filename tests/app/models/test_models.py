"""Models over HTTP, and the allow list that the command line fills."""

from datetime import UTC, datetime
from typing import Any

import openai
import pytest
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.core.errors import ConflictError, InvalidRequestError
from app.db.models import Adapter, FineTuningJob, JobStatus
from app.models import service
from app.models.service import BaseModelFacts
from tests.fixtures.api import Tenant

FACTS = BaseModelFacts("base/tiny", "/models/tiny", "d1", "LlamaForCausalLM", 1000, 512, {"license": "ours"})


@pytest.fixture
def base(session: Session) -> str:
    return service.register_base_model(session, FACTS).id


def tune(session: Session, tenant: Tenant, suffix: str) -> str:
    """Add a finished job with its adapter; return the model's name."""
    name = f"ft:{FACTS.id}:{tenant.project_id}:{suffix}:abcd1234"
    session.add(
        FineTuningJob(
            id=f"ftjob-{suffix}",
            project_id=tenant.project_id,
            model=FACTS.id,
            base_model_id=FACTS.id,
            training_file_id="file-x",
            seed=0,
            method={},
            spec={},
            request_digest="r",
            status=JobStatus.SUCCEEDED,
            fine_tuned_model=name,
            finished_at=datetime.now(UTC),
        )
    )
    session.flush()
    session.add(
        Adapter(
            id=f"adapter-{suffix}",
            project_id=tenant.project_id,
            job_id=f"ftjob-{suffix}",
            model=name,
            base_model_id=FACTS.id,
            base_model_digest="d1",
            metrics={},
        )
    )
    session.commit()
    return name


def names(answer: Any) -> list[str]:
    return [model["id"] for model in answer.json()["data"]]


def test_base_models_and_own_tuned_models_are_listed(
    api_client: TestClient, other_client: TestClient, session: Session, tenant: Tenant, base: str
) -> None:
    mine = tune(session, tenant, "mine")
    assert names(api_client.get("/v1/models")) == [base, mine]
    assert names(other_client.get("/v1/models")) == [base]
    owners = [model["owned_by"] for model in api_client.get("/v1/models").json()["data"]]
    assert owners == ["system", tenant.project_id]


@pytest.mark.parametrize("separator", ["/", "%2F"])
def test_a_model_is_read_by_a_name_with_slash_and_colons(
    api_client: TestClient, session: Session, tenant: Tenant, base: str, separator: str
) -> None:
    mine = tune(session, tenant, "mine")
    for name in (base, mine):
        answer = api_client.get(f"/v1/models/{name.replace('/', separator)}")
        assert answer.status_code == 200
        assert answer.json()["id"] == name
        assert answer.json()["object"] == "model"


def test_a_deleted_model_is_gone_and_its_job_stays(
    api_client: TestClient, session: Session, tenant: Tenant, base: str
) -> None:
    mine = tune(session, tenant, "mine")
    assert api_client.delete(f"/v1/models/{mine}").json() == {"id": mine, "object": "model", "deleted": True}
    assert api_client.get(f"/v1/models/{mine}").status_code == 404
    assert api_client.delete(f"/v1/models/{mine}").status_code == 404
    assert names(api_client.get("/v1/models")) == [base]
    session.expire_all()
    assert session.get_one(Adapter, "adapter-mine").deleted_at is not None
    assert session.get_one(FineTuningJob, "ftjob-mine").fine_tuned_model == mine


def test_a_base_model_cannot_be_deleted(api_client: TestClient, base: str) -> None:
    refused = api_client.delete(f"/v1/models/{base}")
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "base_model"
    assert api_client.get(f"/v1/models/{base}").status_code == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_foreign_model_answers_exactly_like_an_unknown_one(
    other_client: TestClient, session: Session, tenant: Tenant, base: str, method: str
) -> None:
    mine = tune(session, tenant, "mine")
    foreign = other_client.request(method, f"/v1/models/{mine}")
    unknown = other_client.request(method, "/v1/models/ft:none")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace(mine, "ft:none") == unknown.text
    session.expire_all()
    assert session.get_one(Adapter, "adapter-mine").deleted_at is None


def test_the_sdk_lists_reads_and_deletes(api_client: TestClient, session: Session, tenant: Tenant, base: str) -> None:
    mine = tune(session, tenant, "mine")
    client = openai.OpenAI(base_url="http://testserver/v1", api_key=tenant.key, http_client=api_client, max_retries=0)
    assert [model.id for model in client.models.list()] == [base, mine]
    assert client.models.retrieve(base).owned_by == "system"
    assert client.models.delete(mine).deleted
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete(base)


def test_registering_again_moves_the_model_but_keeps_its_weights(session: Session, base: str) -> None:
    moved = BaseModelFacts(base, "/elsewhere", "d1", "LlamaForCausalLM", 1000, 512, {"license": "theirs"})
    row = service.register_base_model(session, moved)
    assert (row.path, row.details) == ("/elsewhere", {"license": "theirs"})
    changed = BaseModelFacts(base, "/models/tiny", "d2", "LlamaForCausalLM", 1000, 512)
    with pytest.raises(ConflictError, match="other weights"):
        service.register_base_model(session, changed)
    assert [model.digest for model in service.list_base_models(session)] == ["d1"]


@pytest.mark.parametrize("name", ["", "ft:looks-tuned"])
def test_a_name_that_could_be_mistaken_is_refused(session: Session, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        service.register_base_model(session, BaseModelFacts(name, "/m", "d", "a", 1, 1))
