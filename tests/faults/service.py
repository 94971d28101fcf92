"""The client's side of a fault test: a key, a file and a create call that may be repeated."""

from dataclasses import dataclass
from typing import Any

import httpx

from app.db.session import transaction
from tests.faults.world import World
from tests.fixtures.api import make_tenant
from tests.fixtures.fine_tuning import NLFT_ROW, add_base_model, add_file, lines


@dataclass(frozen=True)
class Request:
    """A create call with its headers."""

    headers: dict[str, str]
    body: dict[str, Any]

    def keyed(self, key: str) -> "Request":
        """Return the same call under another idempotency key."""
        return Request({**self.headers, "Idempotency-Key": key}, self.body)

    def send(self, client: httpx.Client) -> dict[str, Any]:
        """Send it; return the job.

        Raises:
            httpx.TransportError: The server died meanwhile.
        """
        answer = client.post("/v1/fine_tuning/jobs", json=self.body, headers=self.headers)
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job


def build_request(world: World, rows: int = 12) -> Request:
    """Return an acceptable create call of a new project, on a file of ``rows``."""
    tenant = make_tenant(world.factory, "faults")
    with transaction(world.factory) as session:
        model = add_base_model(session).id
    file_id = add_file(world.factory, world.store, tenant.project_id, lines(NLFT_ROW, rows))
    body = {"model": model, "training_file": file_id, "method": {"type": "nlft"}}
    return Request({**tenant.headers, "Idempotency-Key": "once"}, body)
