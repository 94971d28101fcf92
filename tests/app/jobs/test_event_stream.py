"""Following a job over a real server: events as they happen, in order, once, until the job ends."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from openai import APIError, OpenAI, Stream
from openai.types.fine_tuning import FineTuningJobEvent
from sqlalchemy import Engine, text, update
from sqlalchemy.exc import OperationalError

from app.cli.serve import SERVER_OPTIONS, ApiServer
from app.core.settings import Settings
from app.db.models import ApiKey
from app.db.session import SessionFactory
from app.jobs import event_stream
from app.jobs.events import append_event
from app.main import create_app
from tests.fixtures.api import Tenant

JOBS = "/v1/fine_tuning/jobs"
SOON = 20.0
KILL = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
)


class Live:
    """A server on a free port and a job on it."""

    def __init__(self, server: ApiServer, tenant: Tenant, factory: SessionFactory) -> None:
        port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, headers=tenant.headers, timeout=SOON)
        self.openai = OpenAI(base_url=f"{self.url}/v1", api_key=tenant.key, max_retries=0, timeout=SOON)
        self.server = server
        self.factory = factory
        self.job_id = ""

    @property
    def path(self) -> str:
        return f"{JOBS}/{self.job_id}/events"

    @property
    def app(self) -> FastAPI:
        app: FastAPI = self.server.config.loaded_app
        return app

    def say(self, *messages: str) -> None:
        """Add events, each in a transaction of its own."""
        for message in messages:
            with self.factory() as session:
                append_event(session, self.job_id, attempt=1, level="info", message=message)
                session.commit()

    def cancel(self) -> None:
        assert self.client.post(f"{JOBS}/{self.job_id}/cancel").status_code == 200

    def listed(self) -> list[dict[str, Any]]:
        """Return all events, oldest first."""
        events: list[dict[str, Any]] = self.client.get(self.path, params={"limit": 100}).json()["data"]
        return events[::-1]

    @contextmanager
    def following(self, **query: str) -> Iterator[Iterator[str]]:
        """Yield the lines of a stream that are not empty."""
        with self.client.stream("GET", self.path, params={"stream": "true", **query}) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield (line for line in answer.iter_lines() if line)

    def wait_for(self, open_streams: int) -> None:
        deadline = time.monotonic() + SOON
        while len(self.app.state.event_streams._open) != open_streams:
            assert time.monotonic() < deadline, "the number of open streams did not become what it should"
            time.sleep(0.02)


@contextmanager
def serving(settings: Settings) -> Iterator[ApiServer]:
    app = create_app(settings, reconcile=False)
    server = ApiServer(uvicorn.Config(app, port=0, **SERVER_OPTIONS))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + SOON
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(SOON)
        assert not thread.is_alive()


@pytest.fixture
def live(
    settings: Settings, session_factory: SessionFactory, tenant: Tenant, job_body: dict[str, Any]
) -> Iterator[Live]:
    with serving(settings.model_copy(update={"max_event_streams": 3, "key_cache_seconds": 0})) as server:
        live = Live(server, tenant, session_factory)
        live.job_id = live.client.post(JOBS, json=job_body).json()["id"]
        yield live
        live.client.close()
        live.openai.close()


def messages(lines: Iterator[str], count: int) -> list[str]:
    return [json.loads(next(lines).removeprefix("data: "))["message"] for _ in range(count)]


def test_a_finished_job_is_told_from_its_beginning_and_done(live: Live) -> None:
    live.say(*map(str, range(250)))
    live.cancel()
    with live.following() as lines:
        *events, end = lines
    assert end == "data: [DONE]"
    told = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [event["message"] for event in told[1:-1]] == [str(number) for number in range(250)]
    assert told[-100:] == live.listed()


def test_events_come_as_they_happen_and_end_with_the_job(live: Live) -> None:
    with live.following() as lines:
        assert messages(lines, 1) == [f"Created fine-tuning job: {live.job_id}"]
        live.say("first")
        started = time.monotonic()
        assert messages(lines, 1) == ["first"]
        live.say("second", "third")
        assert messages(lines, 2) == ["second", "third"]
        live.cancel()
        assert messages(lines, 1) == ["Fine-tuning job cancelled."]
        assert list(lines) == ["data: [DONE]"]
        assert time.monotonic() - started < event_stream._KEEP_ALIVE_SECONDS, "nobody waited for a keep-alive"


def test_a_stream_goes_on_behind_an_event(live: Live) -> None:
    live.say("first", "second", "third")
    second = live.listed()[-2]
    with live.following(after=second["id"]) as lines:
        assert messages(lines, 1) == ["third"]
    last = live.listed()[-1]
    live.cancel()
    with live.following(after=last["id"]) as lines:
        assert messages(lines, 1) == ["Fine-tuning job cancelled."]


def test_a_quiet_stream_is_kept_alive(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_KEEP_ALIVE_SECONDS", 0.1)
    with live.following() as lines:
        messages(lines, 1)
        assert [next(lines), next(lines)] == [": keep-alive"] * 2
        live.say("first")
        assert '"first"' in next(line for line in lines if line.startswith("data"))


def test_the_stock_client_reads_the_stream(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_KEEP_ALIVE_SECONDS", 0.05)
    events = live.openai.get(
        f"/fine_tuning/jobs/{live.job_id}/events",
        cast_to=FineTuningJobEvent,
        stream=True,
        stream_cls=Stream[FineTuningJobEvent],
        options={"params": {"stream": "true"}},
    )
    assert next(events).message == f"Created fine-tuning job: {live.job_id}"
    time.sleep(0.2)
    live.say("first")
    assert next(events).message == "first"
    time.sleep(0.2)
    live.cancel()
    assert [event.message for event in events] == ["Fine-tuning job cancelled."]


def test_a_revoked_key_ends_its_streams(live: Live) -> None:
    events = live.openai.get(
        f"/fine_tuning/jobs/{live.job_id}/events",
        cast_to=FineTuningJobEvent,
        stream=True,
        stream_cls=Stream[FineTuningJobEvent],
        options={"params": {"stream": "true"}},
    )
    next(events)
    with live.factory() as session:
        session.execute(update(ApiKey).values(revoked_at=text("now()")))
        session.commit()
    live.say("secret")
    with pytest.raises(APIError, match="Incorrect API key provided"):
        next(events)
    live.wait_for(0)


def test_a_database_that_is_away_ends_the_stream_with_its_error(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    with live.following() as lines:
        messages(lines, 1)

        async def fail(place: object) -> NoReturn:
            raise OperationalError("SELECT", {}, Exception("gone"))

        monkeypatch.setattr(live.app.state.event_streams._reads, "get", fail)
        live.say("first")
        [told] = lines
    assert json.loads(told.removeprefix("data: "))["error"]["code"] == "service_unavailable"


def test_a_listening_connection_that_ends_is_replaced_and_misses_nothing(live: Live, engine: Engine) -> None:
    with live.following() as lines:
        messages(lines, 1)
        live.say("before")
        assert messages(lines, 1) == ["before"]
        for number in range(3):
            with engine.begin() as connection:
                connection.execute(KILL)
            live.say(str(number))
            assert messages(lines, 1) == [str(number)]


def test_what_was_never_announced_comes_with_a_keep_alive(
    live: Live, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_KEEP_ALIVE_SECONDS", 0.2)
    with live.following() as lines:
        messages(lines, 1)
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))  # no trigger fires
            connection.execute(
                text(
                    "INSERT INTO job_events (id, job_id, attempt, level, type, message)"
                    " VALUES ('ftevent-quiet', :job_id, 1, 'info', 'message', 'quiet')"
                ),
                {"job_id": live.job_id},
            )
        assert '"quiet"' in next(line for line in lines if line.startswith("data"))


def test_streams_are_counted_and_their_number_is_bounded(live: Live) -> None:
    with live.following(), live.following(), live.following():
        live.wait_for(3)
        answer = live.client.get(live.path, params={"stream": "true"})
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        assert live.client.get(live.path).status_code == 200
    live.wait_for(0)
    with live.following() as lines:
        messages(lines, 1)


def test_a_server_that_stops_ends_its_streams_at_once(live: Live) -> None:
    with live.following() as lines:
        messages(lines, 1)
        started = time.monotonic()
        live.server.should_exit = True
        assert list(lines) == [], "no [DONE]: the job goes on"
    assert time.monotonic() - started < SERVER_OPTIONS["timeout_graceful_shutdown"] / 2


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({"stream": "true", "after": "ftevent-unknown"}, 400, "after"),
        ({"stream": "true", "limit": "5"}, 400, "limit"),
        ({"stream": "perhaps"}, 400, "stream"),
    ],
)
def test_faults_are_told_before_the_stream_begins(live: Live, query: dict[str, str], status: int, param: str) -> None:
    answer = live.client.get(live.path, params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_job_of_another_project_is_not_found(live: Live, other_tenant: Tenant) -> None:
    answer = live.client.get(live.path, params={"stream": "true"}, headers=other_tenant.headers)
    assert answer.status_code == 404
