"""Clients of the fake endpoint, and questions to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr

from app.completions.client import EndpointClient
from app.completions.configuration import Endpoint, Endpoints
from app.completions.ledger import Ledger
from tests.fixtures.endpoints import KEY, FakeEndpoint
from worker.training.events import CompletionAnswer, CompletionRequest

MODEL = "large"


def endpoints_of(fake: FakeEndpoint, **changes: Any) -> Endpoints:
    """Return one endpoint named ``judge``, quick to give up, with ``changes``."""
    quick = {"timeout_seconds": 0.3, "attempts": 2, "concurrency": 4}
    settings: dict[str, Any] = {"base_url": fake.url, "api_key": SecretStr(KEY), "model": MODEL, **quick, **changes}
    return Endpoints({"judge": Endpoint(**settings)})


def question(number: int, text: str | None = None, model: str = "judge", **sampling: Any) -> CompletionRequest:
    """Return a question that no other number asks, or the one that ``text`` says."""
    content = f"Question {number}" if text is None else text
    return CompletionRequest(number, model, [{"role": "user", "content": content}], sampling)


def ask(client: EndpointClient, count: int = 1, **options: Any) -> list[CompletionAnswer]:
    """Return the answers to ``count`` questions."""
    return client.complete([question(number, **options) for number in range(count)], lambda *_: None)


@contextmanager
def client_of(fake: FakeEndpoint, ledger: Ledger | None = None, **changes: Any) -> Iterator[EndpointClient]:
    """Yield a client of ``endpoints_of``."""
    with EndpointClient(endpoints_of(fake, **changes), ledger) as client:
        yield client
