"""Projects and keys over HTTP, and the service that the command line shares."""

import threading

import openai
import pytest
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.api_keys import service
from app.auth.scopes import PROJECT_SCOPES, Scope
from app.core.errors import InvalidRequestError, NotFoundError
from app.db.models import Project
from app.db.session import SessionFactory
from tests.fixtures.api import PEPPER, Tenant

PROJECTS = "/v1/organization/projects"


@pytest.fixture
def admin(api_client: TestClient, tenant: Tenant, session: Session) -> TestClient:
    key = service.create_key(session, PEPPER, tenant.project_id, name="admin", scopes=[Scope.ADMIN])
    api_client.headers["authorization"] = f"Bearer {key.text}"
    return api_client


def test_a_project_is_created_listed_and_read(admin: TestClient, tenant: Tenant) -> None:
    created = admin.post(PROJECTS, json={"name": " research "}).json()
    assert created["object"] == "organization.project"
    assert created["name"] == "research"
    listed = admin.get(PROJECTS).json()
    assert [project["id"] for project in listed["data"]] == [created["id"], tenant.project_id]
    assert admin.get(f"{PROJECTS}/{created['id']}").json() == created


def test_a_new_key_works_in_its_project_and_its_value_is_shown_once(admin: TestClient) -> None:
    project = admin.post(PROJECTS, json={"name": "p"}).json()["id"]
    created = admin.post(f"{PROJECTS}/{project}/api_keys", json={"name": "ci"}).json()
    assert created["scopes"] == list(PROJECT_SCOPES)
    assert admin.get("/v1/files", headers={"authorization": f"Bearer {created['value']}"}).status_code == 200
    (listed,) = admin.get(f"{PROJECTS}/{project}/api_keys").json()["data"]
    assert "value" not in listed
    assert listed["redacted_value"][:14] == created["value"][:14]
    assert created["value"][14:] not in listed["redacted_value"]
    assert listed["last_used_at"] is not None


def test_a_key_with_a_lifetime_says_when_it_ends(admin: TestClient, tenant: Tenant) -> None:
    body = {"name": "short", "expires_in_seconds": 3600, "scopes": ["jobs:read"]}
    created = admin.post(f"{PROJECTS}/{tenant.project_id}/api_keys", json=body).json()
    assert 3590 <= created["expires_at"] - created["created_at"] <= 3600
    assert created["scopes"] == ["jobs:read"]


def test_a_revoked_key_is_gone_from_every_route(admin: TestClient, tenant: Tenant) -> None:
    keys = f"{PROJECTS}/{tenant.project_id}/api_keys"
    created = admin.post(keys, json={"name": "old"}).json()
    assert admin.get(f"{keys}/{created['id']}").status_code == 200
    assert admin.delete(f"{keys}/{created['id']}").json() == {
        "id": created["id"],
        "object": "organization.project.api_key.deleted",
        "deleted": True,
    }
    assert admin.delete(f"{keys}/{created['id']}").status_code == 404
    assert admin.get(f"{keys}/{created['id']}").status_code == 404
    assert created["id"] not in [key["id"] for key in admin.get(keys).json()["data"]]
    refused = admin.get("/v1/files", headers={"authorization": f"Bearer {created['value']}"})
    assert refused.status_code == 401


def test_a_key_of_another_project_is_unknown_in_this_one(admin: TestClient, tenant: Tenant) -> None:
    other = admin.post(PROJECTS, json={"name": "p"}).json()["id"]
    key = admin.post(f"{PROJECTS}/{other}/api_keys", json={"name": "k"}).json()["id"]
    assert admin.delete(f"{PROJECTS}/{tenant.project_id}/api_keys/{key}").status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("", {"name": " "}, (400, "name")),
        ("", {"name": "n", "nmae": 1}, (400, "nmae")),
        ("/proj_unknown/api_keys", {"name": "n"}, (404, "project_id")),
        ("/{project}/api_keys", {"name": "n", "scopes": ["files:reed"]}, (400, "scopes")),
        ("/{project}/api_keys", {"name": "n", "scopes": []}, (400, "scopes")),
        ("/{project}/api_keys", {"name": "n", "expires_in_seconds": 1}, (400, "expires_in_seconds")),
    ],
)
def test_a_wrong_request_names_the_place(
    admin: TestClient, tenant: Tenant, path: str, body: dict[str, object], expected: tuple[int, str]
) -> None:
    answer = admin.post(PROJECTS + path.format(project=tenant.project_id), json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == expected


def test_an_ordinary_key_administers_nothing(api_client: TestClient, tenant: Tenant) -> None:
    for method, path in [("GET", PROJECTS), ("POST", PROJECTS), ("GET", f"{PROJECTS}/{tenant.project_id}/api_keys")]:
        assert api_client.request(method, path, json={"name": "x"} if method == "POST" else None).status_code == 403


def test_the_sdk_reads_projects_and_keys(admin: TestClient, tenant: Tenant) -> None:
    key = admin.headers["authorization"].removeprefix("Bearer ")
    client = openai.OpenAI(base_url="http://testserver/v1", api_key=key, admin_api_key=key, http_client=admin)
    (project,) = client.admin.organization.projects.list().data
    assert project.id == tenant.project_id
    keys = client.admin.organization.projects.api_keys.list(tenant.project_id).data
    assert {each.name for each in keys} == {"admin", "first"}


def test_bootstrap_makes_the_first_project_and_only_the_first(session: Session) -> None:
    created = service.bootstrap(session, PEPPER)
    assert created is not None
    assert created.row.scopes == list(PROJECT_SCOPES)
    assert service.bootstrap(session, PEPPER) is None
    assert session.query(Project).count() == 1


def test_two_bootstraps_at_once_make_one_project(session_factory: SessionFactory) -> None:
    made: list[object] = []

    def run() -> None:
        with session_factory() as session:
            made.append(service.bootstrap(session, PEPPER))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([key for key in made if key is not None]) == 1


def test_the_service_refuses_what_does_not_exist(session: Session, tenant: Tenant) -> None:
    with pytest.raises(NotFoundError):
        service.create_key(session, PEPPER, "proj_unknown", name="n")
    with pytest.raises(NotFoundError):
        service.revoke_key(session, tenant.project_id, "key_unknown")
    with pytest.raises(InvalidRequestError):
        service.create_key(session, PEPPER, tenant.project_id, name="n", scopes=["everything"])
