"""What endpoints may rely on: how long a session lives, and who commits."""

import threading
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from sqlalchemy import select, text
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.core.settings import Settings
from app.db.models import Project
from app.db.session import SessionFactory
from app.dependencies import DbSession, Store
from app.main import create_app


def test_no_connection_is_held_while_an_answer_streams(api_app: FastAPI, api_client: TestClient) -> None:
    def stream(session: DbSession) -> StreamingResponse:
        session.execute(text("SELECT 1"))

        def chunks() -> Iterator[str]:
            yield str(api_app.state.resources.engine.pool.checkedout())

        return StreamingResponse(chunks())

    api_app.add_api_route("/stream", stream)
    assert api_client.get("/stream").text == "0"


def test_what_was_not_committed_is_rolled_back(api_app: FastAPI, api_client: TestClient) -> None:
    def forget(session: DbSession) -> str:
        session.add(Project(id="proj_forgotten", name="n"))
        session.flush()
        return "done"

    api_app.add_api_route("/forget", forget)
    assert api_client.get("/forget").status_code == 200
    with api_app.state.resources.sessions() as session:
        assert session.scalar(select(Project.id).where(Project.id == "proj_forgotten")) is None


def test_what_was_committed_can_be_read_when_the_answer_arrives(api_app: FastAPI, api_client: TestClient) -> None:
    def keep(session: DbSession, store: Store) -> str:
        assert store is api_app.state.resources.store
        return api_keys.create_project(session, "kept").id

    api_app.add_api_route("/keep", keep)
    project_id = api_client.get("/keep").json()
    with api_app.state.resources.sessions() as session:
        assert session.get_one(Project, project_id).name == "kept"


@pytest.mark.parametrize(
    "path", ["files/%00", "models/%00", "files?after=%00", "fine_tuning/jobs/%00", "files/%00/content"]
)
def test_a_value_that_the_database_cannot_hold_is_400(api_client: TestClient, path: str) -> None:
    answer = api_client.get(f"/v1/{path}")
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_reconcile_loop_runs_beside_the_requests_and_stops_with_them(
    settings: Settings, session_factory: SessionFactory
) -> None:
    before = set(threading.enumerate())
    with TestClient(create_app(settings)):
        beside = {thread.name for thread in set(threading.enumerate()) - before}
        assert any(name.startswith("reconcile") for name in beside)
    assert not any(thread.name.startswith("reconcile") for thread in threading.enumerate())
