"""Creating a job while its file is being deleted, and filling the queue from several threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

from starlette.testclient import TestClient

from app.core.settings import Settings
from app.main import create_app
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import MakeFile, client_beside

JOBS = "/v1/fine_tuning/jobs"
ROUNDS = 10


def at_once(calls: list[Callable[[], Any]]) -> list[int]:
    """Return the statuses of calls that threads start together."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], Any]) -> int:
        barrier.wait()
        return int(call().status_code)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_file_is_either_held_or_gone(api_client: TestClient, base_model: str, make_file: MakeFile) -> None:
    creator, deleter = api_client, client_beside(api_client)
    for _ in range(ROUNDS):
        file_id = make_file()
        body = {"model": base_model, "training_file": file_id, "method": {"type": "nlft"}}
        created, deleted = at_once(
            [partial(creator.post, JOBS, json=body), partial(deleter.delete, f"/v1/files/{file_id}")]
        )
        assert (created, deleted) in {(200, 409), (400, 200)}
        assert creator.get(f"/v1/files/{file_id}").status_code == (200 if created == 200 else 404)


def test_quota_holds_against_creates_at_the_same_moment(
    settings: Settings, tenant: Tenant, job_body: dict[str, Any]
) -> None:
    app = create_app(settings.model_copy(update={"max_queued_jobs": 3}))
    with TestClient(app, headers=tenant.headers) as client:
        statuses = at_once([partial(client_beside(client).post, JOBS, json=job_body) for _ in range(6)])
    assert sorted(statuses) == [200] * 3 + [429] * 3
