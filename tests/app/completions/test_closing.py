import gc
import sys
from typing import Any

import pytest

from app.completions.client import EndpointClient
from app.completions.configuration import Endpoint, Endpoints
from tests.fixtures.endpoints import KEY, FakeEndpoint, Reply
from worker.training.completions import new_request


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Python could not raise because nobody was left to catch it, such as a coroutine that nobody awaited."""
    found: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: found.append(event.exc_value))
    return found


def test_a_client_that_closes_while_it_connects_leaves_nothing_behind(
    fake_endpoint: FakeEndpoint, unraisable: list[Any]
) -> None:
    fake_endpoint.script(Reply(hangs=True))
    endpoint = Endpoint(base_url=fake_endpoint.url, api_key=KEY, model="m")
    for _ in range(10):
        with EndpointClient(Endpoints({"judge": endpoint})) as client:
            asked = client.submit(new_request("judge", [{"role": "user", "content": "?"}], {}))
        assert asked.cancelled() or not asked.done()
        del client
    gc.collect()
    assert unraisable == []
