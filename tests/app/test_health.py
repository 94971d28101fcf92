"""Health routes."""

from pydantic import SecretStr
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.db.session import SessionFactory
from app.main import create_app


def test_a_healthy_service_is_alive_and_ready(api_client: TestClient) -> None:
    assert api_client.get("/livez").json() == {"status": "ok", "checks": {}}
    ready = api_client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ok", "checks": {"database": "ok", "broker": "ok"}}


def test_a_missing_broker_is_reported_but_not_required(settings: Settings, session_factory: SessionFactory) -> None:
    away = settings.model_copy(update={"broker_url": SecretStr("redis://127.0.0.1:1/0")})
    with TestClient(create_app(away, reconcile=False)) as client:
        ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {"database": "ok", "broker": "unavailable"}


def test_a_schema_of_another_revision_is_not_ready(settings: Settings, empty_database_url: str) -> None:
    app = create_app(settings.model_copy(update={"database_url": SecretStr(empty_database_url)}), reconcile=False)
    with TestClient(app) as client:
        ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "alembic upgrade head" in ready.json()["checks"]["database"]


def test_a_database_that_hangs_is_not_ready_within_its_second(api_client: TestClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
        ready = api_client.get("/readyz")
    assert ready.status_code == 503
    assert ready.elapsed.total_seconds() < 3


def test_the_documentation_is_served_only_when_asked_for(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"serve_docs": True}), reconcile=False)) as client:
        assert client.get("/docs").status_code == 200
        paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/files/{file_id}/content" in paths
    assert "multipart/form-data" in paths["/v1/files"]["post"]["requestBody"]["content"]
