import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from pydantic import SecretStr

from app.core.settings import Settings
from app.queue import QUEUE_NAME, RUN_JOB, JobQueue
from app.queue.job_queue import PAUSE_SECONDS


@contextmanager
def queue_on(url: str) -> Iterator[JobQueue]:
    queue = JobQueue.from_settings(Settings(BROKER_URL=SecretStr(url)))
    yield queue
    queue.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_message_names_the_job_and_nothing_else(broker_url: str) -> None:
    with (
        redis.Redis.from_url(broker_url.replace("redis+socket://", "unix://")) as client,
        queue_on(broker_url) as queue,
    ):
        client.delete(QUEUE_NAME)
        assert queue.enqueue_job("ftjob-1")
        message = json.loads(client.lpop(QUEUE_NAME) or b"")
    assert message["headers"]["task"] == RUN_JOB
    assert message["headers"]["kwargsrepr"] == "{'version': 1, 'job_id': 'ftjob-1'}"
    assert message["content-type"] == "application/json"


def test_dead_broker_is_reported_not_raised_and_not_asked_again_at_once() -> None:
    with queue_on("redis://127.0.0.1:1/0") as queue:
        assert queue.enqueue_job("ftjob-1") is False
        began = time.monotonic()
        assert queue.enqueue_job("ftjob-2") is False
        assert time.monotonic() - began < 0.1


def test_hanging_broker_costs_no_more_than_the_budget(silent_port: int) -> None:
    with queue_on(f"redis://127.0.0.1:{silent_port}/0") as queue:
        began = time.monotonic()
        assert queue.enqueue_job("ftjob-1") is False
        assert time.monotonic() - began < PAUSE_SECONDS
